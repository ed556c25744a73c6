"""Train an arm: every seed and fold of one setting, resumable, on several cores."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import CohortError, ConfigError, SagError
from sagdeploy.training.checkpoint import (
    RUN_FILE,
    RunRecord,
    keep_extractor,
    read_result,
    read_run,
    seed_folder,
    software_versions,
    write_run,
)
from sagdeploy.training.controls import controlled, in_words
from sagdeploy.training.dataset import RAM_BYTES, Bags, open_bags
from sagdeploy.training.splits import Partition, learning_slides, partitions
from sagdeploy.training.train import SAVE_EVERY_S, Progress, SeedTask, train_seed

FIXED = (
    *("settings", "classes", "plan", "extractor", "origin", "cohort_sha256", "folds"),
    "threads",
)
"""What must be the same for a run to go on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """One training of an arm."""

    seed: int
    fold: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """What all members of an arm share; small enough to be handed to another process."""

    cohort: Cohort
    bags: Path
    run: Path
    settings: TrainSettings
    folds: int | None
    threads: int
    ram_bytes: int
    save_every_s: float

    @property
    def name(self) -> str:
        """Model and guidance in words."""
        model, guidance = self.settings.model, self.settings.guidance
        options = ", ".join(f"{key}={value}" for key, value in sorted(model.options.items()))
        scaled = ", standardised" if model.standardise else ""
        return f"{model.name}{f' ({options})' if options else ''}{scaled}, {in_words(guidance)}"

    def open(self, ram_bytes: int) -> Bags:
        """The bags that training may know."""
        slides = learning_slides(self.cohort)
        return open_bags(slides, self.bags, classes=self.cohort.classes, ram_bytes=ram_bytes)

    def parts(self) -> tuple[Partition, ...]:
        """One partition, or one a fold; CohortError or ConfigError where none can be trained."""
        share = self.settings.validation_share
        parts = partitions(self.cohort, folds=self.folds, validation_share=share)
        for part in parts:
            if len({slide.label for slide in part.train}) < 2:
                raise CohortError("the training slides are all of one class")
            if not part.validation and self.settings.select_by != "last":
                raise ConfigError(
                    f"select_by {self.settings.select_by!r} needs validation slides",
                    hint='set validation_share above 0, or select_by = "last"',
                )
        return parts


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
) -> RunRecord:
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
    processes = min(jobs or os.cpu_count() or 1, len(members))
    if processes > 1:
        _train_in_processes(arm, members, processes, progress)
    elif members:
        _train_members(arm, members, ram_bytes, progress)
    return record


def _folds(folds: int | None) -> Sequence[int | None]:
    return [None] if folds is None else range(folds)


def _record(arm: Arm, seeds: Sequence[int]) -> RunRecord:
    """What the run is, written; ConfigError where the folder holds another one."""
    before = read_run(arm.run) if (arm.run / RUN_FILE).is_file() else None
    part, bags = arm.parts()[0], arm.open(ram_bytes=0)
    sides = {"train": part.train, "val": part.validation, "held_out": part.held_out}
    sides["test"] = arm.cohort.of_split("test")
    record = RunRecord(
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


def _train_members(arm: Arm, members: Sequence[Member], ram_bytes: int, progress: Progress) -> None:
    """Train some members one after the other, on the same bags in memory."""
    bags, parts = arm.open(ram_bytes), arm.parts()
    with _torch_threads(arm.threads):
        for member in members:
            part = parts[member.fold or 0]
            validation = bags.select(slide.slide_id for slide in part.validation)
            task = SeedTask(
                run=arm.run,
                settings=arm.settings,
                classes=len(arm.cohort.classes),
                train=controlled(
                    bags.select(slide.slide_id for slide in part.train),
                    arm.settings.guidance,
                    seed=member.seed,
                ),
                validation=validation if len(validation) else None,
                seed=member.seed,
                fold=member.fold,
                held_out=tuple(slide.slide_id for slide in part.held_out),
                save_every_s=arm.save_every_s,
            )
            train_seed(task, progress)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_in_processes(
    arm: Arm, members: Sequence[Member], processes: int, progress: Progress
) -> None:
    """Train members in other processes; the first error is raised when the others are done.

    They are forked from a server that has imported torch once and has started none of its
    threads, which do not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    running: dict[Connection, BaseProcess] = {}
    errors: list[SagError] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            share = (arm, members[index::processes], arm.ram_bytes // processes, theirs)
            running[ours] = context.Process(target=_work, args=share, daemon=True)
            running[ours].start()
            theirs.close()
        while running:
            for told in wait(list(running)):
                assert isinstance(told, Connection)
                errors += _hear(told, running, progress)
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    if errors:
        raise errors[0]


def _hear(
    told: Connection, running: dict[Connection, BaseProcess], progress: Progress
) -> list[SagError]:
    """Pass on one message of a process, or see to its end; returns what went wrong there."""
    try:
        message = told.recv()
    except EOFError:
        process = running.pop(told)
        process.join()
        if process.exitcode == 0:
            return []
        return [
            SagError(
                f"a training process ended with code {process.exitcode}",
                hint="run it again with --jobs 1: it resumes",
            )
        ]
    if isinstance(message, SagError):
        return [message]
    progress(message)
    return []


def _work(arm: Arm, members: Sequence[Member], ram_bytes: int, told: Connection) -> None:
    """Train some members in a process of their own, telling its parent of every epoch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        _train_members(arm, members, ram_bytes, told.send)
    except SagError as error:
        told.send(error)
