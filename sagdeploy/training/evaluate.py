"""What a run's seeds are worth on slides that they did not learn from.

Masks and annotations measure the attention afterwards; a model is given features alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.config import Strict, problems
from sagdeploy.errors import BagError, CohortError, ConfigError, ModelError
from sagdeploy.files import write_bytes, write_json
from sagdeploy.training.checkpoint import (
    RunRecord,
    SeedResult,
    load_model,
    read_results,
    read_run,
)
from sagdeploy.training.dataset import RAM_BYTES, open_bags
from sagdeploy.training.intervals import Interval
from sagdeploy.training.judgement import (
    Judged,
    averaged,
    intervals_of,
    judge_slides,
    scores_of,
    table,
)

Split = Literal["train", "val", "test", "folds"]
RESAMPLES = 2000


class SeedScores(Strict):
    """Metrics of one seed, or of one fold of one seed on its held-out slides."""

    seed: int
    fold: int | None
    metrics: dict[str, float | None]
    """By the names of DiagnosisScores and AttentionScores; None where undefined."""


class Evaluation(Strict):
    """What a run is worth on one split."""

    schema_version: Literal[1] = 1
    arm: str
    split: Split
    classes: tuple[str, ...]
    slides: int
    patients: int
    cohort_sha256: str
    opened: int
    """How often the run has been evaluated on this split, this time included."""

    seeds: tuple[SeedScores, ...]
    mean: dict[str, float]
    """Over the seeds."""

    sd: dict[str, float]
    """Between the seeds; empty for one."""

    intervals: dict[str, Interval]
    """Of the means over the seeds, over patients."""

    ensemble: dict[str, Interval]
    """Of the metrics of the mean of the seeds' probabilities and attention scores, over
    patients; `auc_delong` is its AUC once more."""


def evaluate_run(
    run: Path,
    cohort: Cohort,
    bags_folder: Path,
    split: Split = "test",
    *,
    resamples: int = RESAMPLES,
    ram_bytes: int = RAM_BYTES,
) -> Evaluation:
    """Evaluate every seed of a run, and write its evaluation and predictions of that split.

    split: `folds` gives each fold the slides that it held out
    Raises CohortError where the run learned from a slide of `test`.
    """
    record, results = read_run(run), read_results(run)
    slides = _slides(cohort, split, record, results)
    bags = open_bags(slides, bags_folder, classes=record.classes, ram_bytes=ram_bytes)
    if (bags.plan, bags.extractor.sha256) != (record.plan, record.extractor.sha256):
        raise BagError(
            f"{bags_folder}: of another tile plan or extractor than {run}",
            hint="evaluate on bags that were made as those of training were",
        )
    judged = {
        (result.seed, result.fold): judge_slides(
            load_model(run, record, result),
            bags.select(result.held_out) if split == "folds" else bags,
            temperature=result.temperature,
        )
        for result in results
    }
    evaluation = _evaluation(judged, record, split, cohort, resamples)
    before = read_evaluation(run, split).opened if _file(run, split).is_file() else 0
    evaluation = evaluation.model_copy(update={"opened": before + 1})
    write_bytes(run / f"predictions_{split}.csv", table(judged, record.classes).encode())
    write_json(_file(run, split), evaluation.model_dump(mode="json"))
    return evaluation


def read_evaluation(run: Path, split: Split = "test") -> Evaluation:
    """What `evaluate_run` wrote; ConfigError where it did not, ModelError where it is not ours."""
    path = _file(run, split)
    if not path.is_file():
        raise ConfigError(
            f"{run}: not evaluated on {split}",
            hint=f"run sagdeploy evaluate {run} COHORT.csv --bags BAGS --split {split}",
        )
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(
            f"{path}: not ours: {problems(error)}", hint="delete it and evaluate again"
        ) from error


def _evaluation(
    judged: Judged, record: RunRecord, split: Split, cohort: Cohort, resamples: int
) -> Evaluation:
    seeds = tuple(
        SeedScores(seed=seed, fold=fold, metrics=scores_of(slides))
        for (seed, fold), slides in judged.items()
    )
    together = averaged(slide for slides in judged.values() for slide in slides)
    return Evaluation(
        arm=record.arm,
        split=split,
        classes=record.classes,
        slides=len(together),
        patients=len({slide.patient_id for slide in together}),
        cohort_sha256=cohort.sha256,
        opened=1,
        seeds=seeds,
        mean=_over_seeds(seeds, lambda values: float(np.mean(values)), at_least=1),
        sd=_over_seeds(seeds, lambda values: float(np.std(values, ddof=1)), at_least=2),
        intervals=intervals_of(tuple(judged.values()), resamples=resamples),
        ensemble=intervals_of([together], resamples=resamples),
    )


def _over_seeds(
    seeds: Sequence[SeedScores], statistic: Callable[[list[float]], float], *, at_least: int
) -> dict[str, float]:
    columns = {
        name: [v for seed in seeds if (v := seed.metrics[name]) is not None]
        for name in seeds[0].metrics
    }
    return {name: statistic(values) for name, values in columns.items() if len(values) >= at_least}


def _slides(
    cohort: Cohort, split: Split, record: RunRecord, results: Sequence[SeedResult]
) -> tuple[CohortSlide, ...]:
    """The slides of a split; CohortError where the run has learned from a test slide."""
    if split == "folds":
        held_out = {slide_id for result in results for slide_id in result.held_out}
        if not held_out:
            raise ConfigError("the run has no folds", hint="pass --split test")
        return tuple(slide for slide in cohort.slides if slide.slide_id in held_out)
    slides = cohort.of_split(split)
    leaked = sorted({slide.slide_id for slide in slides} & set(record.learned_from))
    if split == "test" and leaked:
        raise CohortError(
            f"the run learned from {len(leaked)} of the slides in {split}, such as {leaked[0]}",
            hint="evaluate with the cohort that the run was trained with",
        )
    return slides


def _file(run: Path, split: Split) -> Path:
    return run / f"evaluation_{split}.json"
