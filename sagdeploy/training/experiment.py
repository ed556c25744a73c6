"""Train an arm: every seed and fold of one setting, resumable, on several cores."""

import logging
from collections.abc import Sequence
from pathlib import Path

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import ConfigError
from sagdeploy.pipeline.stream import cores
from sagdeploy.training.arm import Arm, Member, train_members
from sagdeploy.training.checkpoint import (
    RUN_FILE,
    TrainingRecord,
    keep_extractor,
    read_result,
    read_run,
    seed_folder,
    software_versions,
    write_run,
)
from sagdeploy.training.dataset import RAM_BYTES
from sagdeploy.training.train import SAVE_EVERY_S, Progress
from sagdeploy.training.workers import train_in_processes

FIXED = (
    *("settings", "classes", "plan", "extractor", "origin", "cohort_sha256", "folds"),
    "threads",
)
"""What must be the same for a run to go on."""

logger = logging.getLogger(__name__)


def train_seeds(
    cohort: Cohort,
    bags_folder: Path,
    run: Path,
    settings: TrainSettings,
    seeds: Sequence[int],
    *,
    folds: int | None = None,
    jobs: int | None = None,
    threads: int = 1,
    progress: Progress = lambda done: None,
    ram_bytes: int = RAM_BYTES,
    save_every_s: float = SAVE_EVERY_S,
) -> TrainingRecord:
    """Train each seed, or each fold of each seed, into `run`; what is done there is kept.

    jobs:      processes that train at once; one a core if not given
    threads:   of each process; another number changes the last bits of the weights
    ram_bytes: of bags held in memory by all processes together
    No bag of the split `test` is opened.
    """
    if not seeds or min(seeds) < 0 or (folds is not None and folds < 2):
        raise ConfigError(
            f"seeds {list(seeds)}, folds {folds}", hint="seeds are 0 or more, folds 2 or more"
        )
    arm = Arm(cohort, bags_folder, run, settings, folds, threads, ram_bytes, save_every_s)
    record = _record(arm, seeds)
    wanted = [Member(seed, fold) for fold in _folds(folds) for seed in dict.fromkeys(seeds)]
    members = [m for m in wanted if read_result(seed_folder(run, m.seed, m.fold)) is None]
    processes = min(jobs or cores(), len(members))
    if processes > 1:
        train_in_processes(arm, members, processes, progress)
    elif members:
        train_members(arm, members, ram_bytes, progress)
    return record


def _folds(folds: int | None) -> Sequence[int | None]:
    return [None] if folds is None else range(folds)


def _record(arm: Arm, seeds: Sequence[int]) -> TrainingRecord:
    """What the run is, written; ConfigError where the folder holds another one."""
    before = read_run(arm.run) if (arm.run / RUN_FILE).is_file() else None
    part, bags = arm.parts()[0], arm.open(ram_bytes=None)
    sides = {"train": part.train, "val": part.validation, "held_out": part.held_out}
    sides["test"] = arm.cohort.of_split("test")
    record = TrainingRecord(
        arm=arm.name,
        settings=arm.settings,
        classes=arm.cohort.classes,
        plan=bags.plan,
        extractor=bags.extractor,
        origin=bags.origin,
        cohort_sha256=arm.cohort.sha256,
        slides={name: len(slides) for name, slides in sides.items() if slides},
        learned_from=bags.slide_ids,
        learned_patients=tuple(sorted({source.slide.patient_id for source in bags.sources})),
        learned_sha256=tuple(sorted({s.slide_sha256 for s in bags.sources if s.slide_sha256})),
        folds=arm.folds,
        seeds=tuple(dict.fromkeys([*(before.seeds if before else ()), *seeds])),
        threads=arm.threads,
        software=software_versions(),
    )
    changed = [name for name in FIXED if before and getattr(before, name) != getattr(record, name)]
    if changed:
        raise ConfigError(
            f"{arm.run}: holds a run with other {', '.join(changed)}",
            hint="choose another --out, or delete the folder",
        )
    if not keep_extractor(arm.bags, arm.run, bags.extractor):
        logger.warning("%s: holds no extractor.onnx, so the run cannot be exported", arm.bags)
    write_run(arm.run, record)
    return record
