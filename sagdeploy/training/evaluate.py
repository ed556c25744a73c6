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
from sagdeploy.files import write_json
from sagdeploy.training.baselines import baselines
from sagdeploy.training.checkpoint import (
    SeedResult,
    TrainingRecord,
    load_model,
    read_results,
    read_run,
)
from sagdeploy.training.dataset import Bags, extractor_kind, open_bags
from sagdeploy.training.intervals import Interval
from sagdeploy.training.judgement import Judged, averaged, judge_slides
from sagdeploy.training.landmarks import Landmarks, read_landmarks
from sagdeploy.training.panel import intervals_of, scores_of
from sagdeploy.training.predictions import predictions_file, write_predictions

Split = Literal["train", "val", "test", "folds"]
RESAMPLES = 2000
FAITHFUL_SEEDS = 3
"""Of the seeds, the first, whose attention is asked whether the diagnosis depends on it: that
takes 21 passes of the model over every bag where a diagnosis takes one."""


class SeedScores(Strict):
    """Metrics of one seed, or of one fold of one seed on its held-out slides."""

    seed: int
    fold: int | None
    metrics: dict[str, float | None]
    """By the names of DiagnosisScores, AttentionScores, FaithfulnessScores and FROC_METRICS; None
    where undefined."""


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

    baselines: dict[str, dict[str, Interval]]
    """Where attention would lie that knows no model, by name of map and metric."""

    left_out: dict[str, str]
    """Measures that could not be taken, and why."""


def evaluate_run(
    run: Path,
    cohort: Cohort,
    bags_folder: Path,
    split: Split = "test",
    *,
    faithful_seeds: int = FAITHFUL_SEEDS,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Evaluate every seed of a run, and write its evaluation and predictions of that split.

    split:          `folds` gives each fold the slides that it held out
    faithful_seeds: how many seeds, the first, have their faithfulness measured
    Raises CohortError where the run learned from a slide or a patient of `test`.
    """
    record = read_run(run)
    slides = _slides(cohort, split, read_results(run))
    bags = open_bags(slides, bags_folder, classes=record.classes)
    _refuse_other_bags(bags, record, f"{bags_folder}: of another tile plan or extractor than {run}")
    if split == "test":
        _refuse_leaks(bags, record)
    landmarks = read_landmarks(bags)
    judged = _judge_seeds(run, record, bags, landmarks, split, faithful_seeds)
    seeds = tuple(
        SeedScores(seed=seed, fold=fold, metrics=scores_of(slides))
        for (seed, fold), slides in judged.items()
    )
    ensemble = averaged(slide for slides in judged.values() for slide in slides)
    before = read_evaluation(run, split).opened if _file(run, split).is_file() else 0
    evaluation = Evaluation(
        arm=record.arm,
        split=split,
        classes=record.classes,
        slides=len(bags),
        patients=len({source.slide.patient_id for source in bags.sources}),
        cohort_sha256=cohort.sha256,
        opened=before + 1,
        seeds=seeds,
        mean=_over_seeds(seeds, lambda values: float(np.mean(values)), at_least=1),
        sd=_over_seeds(seeds, lambda values: float(np.std(values, ddof=1)), at_least=2),
        intervals=intervals_of(tuple(judged.values()), resamples=resamples),
        ensemble=intervals_of([ensemble], resamples=resamples),
        baselines=baselines(bags, landmarks, resamples=resamples),
        left_out=dict(landmarks.left_out),
    )
    write_predictions(predictions_file(run, split), judged, record.classes)
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


def _judge_seeds(
    run: Path,
    record: TrainingRecord,
    bags: Bags,
    landmarks: Landmarks,
    split: Split,
    faithful_seeds: int,
) -> Judged:
    """What each seed, or fold of a seed, says of its slides."""
    results = read_results(run)
    faithful = sorted({result.seed for result in results})[:faithful_seeds]
    return {
        (result.seed, result.fold): judge_slides(
            load_model(run, record, result),
            bags.select(result.held_out) if split == "folds" else bags,
            temperature=result.temperature,
            threshold=result.threshold,
            landmarks=landmarks,
            faithful_seed=result.seed if result.seed in faithful else None,
        )
        for result in results
    }


def _over_seeds(
    seeds: Sequence[SeedScores], statistic: Callable[[list[float]], float], *, at_least: int
) -> dict[str, float]:
    columns = {
        name: [v for seed in seeds if (v := seed.metrics[name]) is not None]
        for name in seeds[0].metrics
    }
    return {name: statistic(values) for name, values in columns.items() if len(values) >= at_least}


def _slides(cohort: Cohort, split: Split, results: Sequence[SeedResult]) -> tuple[CohortSlide, ...]:
    if split != "folds":
        return cohort.of_split(split)
    held_out = {slide_id for result in results for slide_id in result.held_out}
    if not held_out:
        raise ConfigError("the run has no folds", hint="pass --split test")
    return tuple(slide for slide in cohort.slides if slide.slide_id in held_out)


def _refuse_other_bags(bags: Bags, record: TrainingRecord, message: str) -> None:
    """BagError where bags were not made as those of training were."""
    expected = (record.plan, record.origin, extractor_kind(record.extractor))
    if (bags.plan, bags.origin, extractor_kind(bags.extractor)) != expected:
        hint = "evaluate on bags that were made as those of training were"
        raise BagError(message, hint=hint)


def _refuse_leaks(bags: Bags, record: TrainingRecord) -> None:
    """CohortError where the run learned from a test slide, its patient, or a copy of it."""
    slides = [source.slide for source in bags.sources]
    kinds: list[tuple[str, Sequence[str | None], Sequence[str]]] = [
        ("slides", [slide.slide_id for slide in slides], record.learned_from),
        ("patients", [slide.patient_id for slide in slides], record.learned_patients),
        ("files", [source.slide_sha256 for source in bags.sources], record.learned_sha256),
    ]
    for what, tested, learned in kinds:
        leaked = sorted({value for value in tested if value} & set(learned))
        if leaked:
            raise CohortError(
                f"the run learned from {len(leaked)} of the {what} in test, such as {leaked[0]}",
                hint="evaluate with the cohort that the run was trained with",
            )


def _file(run: Path, split: Split) -> Path:
    return run / f"evaluation_{split}.json"
