"""The extractor of a run in fewer bits: made, measured on its validation slides, or refused."""

from dataclasses import dataclass
from pathlib import Path

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import Precision
from sagdeploy.errors import ConfigError
from sagdeploy.export.margin import Pair, Progress, mean_feature, measure_margin, refuse_beyond
from sagdeploy.export.precision import to_fp16, to_int8
from sagdeploy.export.samples import sample_tiles
from sagdeploy.files import sha256_of
from sagdeploy.manifest import ExtractorCard, Margin
from sagdeploy.serving.runtime import load_graph
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.checkpoint import SeedResult, TrainingRecord
from sagdeploy.training.splits import Partition, partitions


@dataclass(frozen=True, slots=True)
class Reduction:
    """That the extractor is to have fewer bits, and by which slides that is judged."""

    precision: Precision
    cohort: Cohort
    """The one of training, with its slides at hand."""

    progress: Progress = lambda done, slides: None
    """Told of the validation slides."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """An extractor in fewer bits."""

    onnx: Path
    card: ExtractorCard
    margin: Margin


@dataclass(frozen=True, slots=True)
class Trained:
    """The seed of a run that is exported."""

    record: TrainingRecord
    result: SeedResult
    plan: TilePlan
    extractor_onnx: Path
    """What made the features of training, in float32."""

    diagnosis_onnx: Path


def reduce_extractor(trained: Trained, reduction: Reduction, target: Path) -> Reduced:
    """Write the extractor in fewer bits to `target`.

    The range of its activations is that of tiles of training slides; what it changes is measured
    on the validation slides. Raises ConfigError where the cohort is not the one of training, or
    nothing validates; ExportError where the extractor cannot be reduced, or changes too much.
    """
    part = _partition(trained, reduction.cohort)
    source, precision = trained.extractor_onnx, reduction.precision
    tiles = sample_tiles(part.train, trained.plan)
    if precision == "int8":
        to_int8(source, target, tiles)
    else:
        to_fp16(source, target)
    whole = load_graph(source, sha256=trained.record.extractor.sha256 or None)
    pair = Pair(
        whole=whole,
        reduced=load_graph(target),
        diagnosis=load_graph(trained.diagnosis_onnx, threads=0),
        plan=trained.plan,
        classes=trained.record.classes,
    )
    centre = mean_feature(whole, tiles)
    margin = measure_margin(pair, part.validation, centre, reduction.progress)
    refuse_beyond(margin, precision)
    return Reduced(target, _card(trained.record.extractor, precision, target), margin)


def _partition(trained: Trained, cohort: Cohort) -> Partition:
    """Which slides trained and validated the seed."""
    record, result = trained.record, trained.result
    if cohort.sha256 != record.cohort_sha256:
        raise ConfigError(
            "the cohort is not the table that the run was trained with",
            hint="pass that table, and --splits, --slide-table and --label as for train",
        )
    share = record.settings.validation_share
    parts = partitions(cohort, folds=record.folds, validation_share=share)
    part = parts[result.fold or 0]
    if not part.validation:
        raise ConfigError(
            "the run has no validation slides to measure a precision on",
            hint="export with --precision fp32, or train with validation slides",
        )
    return part


def _card(whole: ExtractorCard, precision: Precision, onnx: Path) -> ExtractorCard:
    changes = {
        "precision": precision,
        "sha256": sha256_of(onnx),
        "weights": f"{whole.weights}; in {precision}",
        "parity": (),
    }
    return whole.model_copy(update=changes)
