"""A training run on disk: what it was, the weights it found, and where to go on after a stop.

    RUN/run.json                        TrainingRecord
    RUN/extractor.onnx                  what made the features, as `extract` left it
    RUN/seed_<n>/weights.safetensors    of the chosen epoch
    RUN/seed_<n>/metrics.csv            one row an epoch
    RUN/seed_<n>/result.json            SeedResult, written last: it says that the seed is done
    RUN/seed_<n>/state.safetensors      only while the seed is being trained

With folds the folders are `fold_<k>_seed_<n>`.
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError
from torch import nn

from sagdeploy.config import Strict, TrainSettings, problems
from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.files import sha256_of, write_json, write_whole
from sagdeploy.manifest import ExtractorCard
from sagdeploy.models.registry import build_model
from sagdeploy.models.standardise import Standardised
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.tensors import TRAIN_AGAIN, load_weights

RUN_FILE = "run.json"
RESULT_FILE = "result.json"
WEIGHTS_FILE = "weights.safetensors"
EXTRACTOR_FILE = "extractor.onnx"

Record = TypeVar("Record", bound=Strict)


class TrainingRecord(Strict):
    """What a run trained, on what, with what."""

    schema_version: Literal[1] = 1
    arm: str
    """Model and guidance in words: the row of a table."""

    settings: TrainSettings
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """In the order of the logits."""

    plan: TilePlan | None
    """None where the features are of other software, which does not say how it cuts slides."""

    extractor: ExtractorCard
    origin: str = ""
    """Which other software made the features."""

    cohort_sha256: str
    slides: dict[str, int]
    """Slides per split; of the first fold where there are folds."""

    learned_from: tuple[str, ...]
    """Slides of training and validation: no test may use them, ..."""

    learned_patients: tuple[str, ...] = ()
    """... nor their patients, ..."""

    learned_sha256: tuple[str, ...] = ()
    """... nor copies of their files, where their hashes are known."""

    folds: int | None = None
    seeds: tuple[int, ...]
    threads: int
    """Of each seed's arithmetic: with another number the last bits differ."""

    software: dict[str, str]

    @property
    def magnifications(self) -> int:
        """S, how many magnifications a slide is read at; other software has one."""
        return len(self.plan.mpp) if self.plan else 1


class SeedResult(Strict):
    """What one seed, or one fold of one seed, found."""

    schema_version: Literal[1] = 1
    seed: int
    fold: int | None = None
    epoch: int
    """The epoch whose weights were kept, counted from 1."""

    epochs: int
    """Epochs trained."""

    validation: dict[str, float]
    """Metrics of that epoch on the validation slides; empty where there are none."""

    temperature: Annotated[float, Field(gt=0)]
    """Fitted on the validation slides; 1 where there are none."""

    threshold: float | None = None
    """Calibrated probability of the second of two classes that parts the validation slides
    best; None where they are of one class, or classes are more."""

    least_on_tissue: float | None = None
    """The smallest share of its attention that a validation slide had on tissue, at any
    magnification; None where no tissue is known."""

    held_out: tuple[str, ...] = ()
    """Slides of the fold, which it never saw."""

    weights_sha256: str


def seed_folder(run: Path, seed: int, fold: int | None = None) -> Path:
    """Where a seed, or a fold of a seed, lies in a run."""
    return run / (f"seed_{seed}" if fold is None else f"fold_{fold}_seed_{seed}")


def read_run(run: Path) -> TrainingRecord:
    """What a run is; ConfigError where there is none, ModelError where it is not ours."""
    if not (run / RUN_FILE).is_file():
        raise ConfigError(f"{run}: no {RUN_FILE}, so no training run", hint="run sagdeploy train")
    return _read_record(run / RUN_FILE, TrainingRecord)


def write_run(run: Path, record: TrainingRecord) -> None:
    """Write what a run is."""
    write_json(run / RUN_FILE, record.model_dump(mode="json"))


def read_results(run: Path) -> tuple[SeedResult, ...]:
    """Results of all seeds that are done, by fold and seed; ModelError where none is."""
    paths = sorted(run.glob(f"*seed_*/{RESULT_FILE}"))
    if not paths:
        raise ModelError(f"{run}: no seed is done", hint="run sagdeploy train again: it resumes")
    results = [_read_record(path, SeedResult) for path in paths]
    return tuple(sorted(results, key=lambda r: (-1 if r.fold is None else r.fold, r.seed)))


def read_result(folder: Path) -> SeedResult | None:
    """The result in a seed's folder; None where the seed is not done."""
    path = folder / RESULT_FILE
    return _read_record(path, SeedResult) if path.is_file() else None


def write_result(folder: Path, result: SeedResult) -> None:
    """Write a seed's result, the last of its files."""
    write_json(folder / RESULT_FILE, result.model_dump(mode="json"))


def best_result(results: tuple[SeedResult, ...]) -> SeedResult:
    """The result with the lowest validation loss; the first where there is no validation."""
    return min(results, key=lambda result: result.validation.get("loss", 0.0))


def load_model(run: Path, record: TrainingRecord, result: SeedResult) -> nn.Module:
    """The trained model of a seed, in evaluation mode; ModelError where its file is refused."""
    path = seed_folder(run, result.seed, result.fold) / WEIGHTS_FILE
    model = build_model(
        record.settings.model.name,
        features=record.extractor.features,
        classes=len(record.classes),
        magnifications=record.magnifications,
        options=record.settings.model.options,
    )
    if record.settings.model.standardise:
        model = Standardised(model, features=record.extractor.features)
    load_weights(model, path)
    if sha256_of(path) != result.weights_sha256:
        raise ModelError(f"{path}: not the file that {RESULT_FILE} describes", hint=TRAIN_AGAIN)
    return model.eval()


def keep_extractor(bags: Path, run: Path, card: ExtractorCard) -> bool:
    """Link the bags' extractor into the run, or copy it; says whether the bags have one.

    ModelError where it is not the extractor that made the bags.
    """
    source, target = bags / EXTRACTOR_FILE, run / EXTRACTOR_FILE
    if not source.is_file():
        return False
    if sha256_of(source) != card.sha256:
        raise ModelError(
            f"{source}: not the extractor that made the bags", hint="run sagdeploy extract again"
        )
    with write_whole(target) as partial:
        partial.unlink()
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)
    return True


def software_versions() -> dict[str, str]:
    """Versions of what decides a training run's numbers."""
    packages = ("sagdeploy", "torch", "numpy", "scipy", "scikit-learn")
    return {"python": python_version()} | {name: version(name) for name in packages}


def _read_record(path: Path, kind: type[Record]) -> Record:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ModelError(f"{path}: not ours: {problems(error)}", hint=TRAIN_AGAIN) from error
