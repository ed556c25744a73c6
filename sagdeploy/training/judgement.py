"""Slides as the seeds of a run see them, and the numbers that follow from that."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from io import StringIO

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sagdeploy.training.dataset import Bags, LabelledBag
from sagdeploy.training.inference import BagPrediction, predict_bags
from sagdeploy.training.intervals import (
    Interval,
    Statistic,
    bootstrap_intervals,
    delong_interval,
    wilson_interval,
)
from sagdeploy.training.metrics import (
    ATTENTION_METRICS,
    AttentionScores,
    Float64,
    Metrics,
    attention_scores,
    calibrated,
    diagnosis_scores,
    mean_attention,
    mean_of,
)

RESAMPLING_SEED = 0
"""An interval must be the same each time that it is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideJudgement:
    """One slide as one seed, or the mean of the seeds, sees it."""

    slide_id: str
    patient_id: str
    label: int
    probabilities: Float64
    """(C,) calibrated"""

    attention: AttentionScores


Judged = Mapping[tuple[int, int | None], Sequence[SlideJudgement]]
"""What each seed, or fold of a seed, says of its slides."""


def judge_slides(model: nn.Module, bags: Bags, *, temperature: float) -> list[SlideJudgement]:
    """What a model makes of each slide, and where its attention lies there."""
    judged = []
    for bag in bags:
        (prediction,) = predict_bags(model, [bag])
        probabilities = calibrated(prediction.logits[None], temperature)[0]
        scores = _attention_of(bag, prediction)
        judged.append(
            SlideJudgement(bag.slide_id, bag.patient_id, bag.label, probabilities, scores)
        )
    return judged


def averaged(slides: Iterable[SlideJudgement]) -> list[SlideJudgement]:
    """Each slide once, by id, with the mean of what its seeds say."""
    by_slide: dict[str, list[SlideJudgement]] = {}
    for slide in slides:
        by_slide.setdefault(slide.slide_id, []).append(slide)
    return [
        SlideJudgement(
            slide_id,
            views[0].patient_id,
            views[0].label,
            np.mean([view.probabilities for view in views], axis=0),
            mean_attention(view.attention for view in views),
        )
        for slide_id, views in sorted(by_slide.items())
    ]


def scores_of(slides: Sequence[SlideJudgement]) -> Metrics:
    """All metrics of some slides, by name."""
    return _statistic(slides)(np.arange(len(slides)))


def intervals_of(
    views: Sequence[Sequence[SlideJudgement]], *, resamples: int
) -> dict[str, Interval]:
    """Intervals over patients of all metrics, each the mean over the views of some slides.

    views: what each seed says of its slides, or one view that is the mean of the seeds
    Closed forms stand in for the bootstrap, or beside it, where every slide has its own
    patient: they are sound where all answers are right, too.
    """
    slides = averaged(slide for view in views for slide in view)
    patients = [slide.patient_id for slide in slides]
    rng = np.random.default_rng(RESAMPLING_SEED)
    statistic = _mean_statistic(views, [slide.slide_id for slide in slides])
    intervals = bootstrap_intervals(statistic, patients, rng, resamples=resamples)
    if len(set(patients)) < len(slides):
        return intervals
    if "accuracy" in intervals:
        intervals["accuracy"] = wilson_interval(intervals["accuracy"].value, len(slides))
    if len(views) == 1 and len(slides[0].probabilities) == 2:
        scores = np.array([slide.probabilities[1] for slide in slides])
        delong = delong_interval(scores, np.array([slide.label == 1 for slide in slides]))
        if delong:
            intervals["auc_delong"] = delong
    return intervals


def table(judged: Judged, classes: Sequence[str]) -> str:
    """CSV of one row a seed and slide, from which every number of an evaluation follows."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["seed", "fold", "slide_id", "patient_id", "label", "predicted"]
    writer.writerow([*head, *(f"probability_{name}" for name in classes), *ATTENTION_METRICS])
    for (seed, fold), slides in judged.items():
        for slide in slides:
            answer = classes[int(slide.probabilities.argmax())]
            row = [seed, fold, slide.slide_id, slide.patient_id, classes[slide.label], answer]
            writer.writerow([*row, *slide.probabilities.tolist(), *astuple(slide.attention)])
    return text.getvalue()


def _statistic(slides: Sequence[SlideJudgement]) -> Statistic:
    """All metrics as a function of the indices of slides."""
    probabilities = np.stack([slide.probabilities for slide in slides])  # (n, C)
    labels = np.array([slide.label for slide in slides])
    attention = np.array([astuple(slide.attention) for slide in slides], np.float64)  # None is NaN

    def statistic(drawn: NDArray[np.intp]) -> Metrics:
        values = attention[drawn]
        counts = np.isfinite(values).sum(axis=0)
        sums = np.nansum(values, axis=0)
        means = [float(s / n) if n else None for s, n in zip(sums, counts, strict=True)]
        diagnosis = asdict(diagnosis_scores(probabilities[drawn], labels[drawn]))
        return diagnosis | dict(zip(ATTENTION_METRICS, means, strict=True))

    return statistic


def _mean_statistic(
    views: Sequence[Sequence[SlideJudgement]], slide_ids: Sequence[str]
) -> Statistic:
    """The mean of the views' metrics as a function of indices into `slide_ids`."""
    members = []
    for view in views:
        place = {slide.slide_id: index for index, slide in enumerate(view)}
        places = np.array([place.get(slide_id, -1) for slide_id in slide_ids])
        members.append((places, _statistic(view)))

    def statistic(drawn: NDArray[np.intp]) -> Metrics:
        own = [(places[drawn], metrics) for places, metrics in members]
        rows = [metrics(seen[seen >= 0]) for seen, metrics in own if (seen >= 0).any()]
        return {name: mean_of(row[name] for row in rows) for name in rows[0]}

    return statistic


def _attention_of(bag: LabelledBag, prediction: BagPrediction) -> AttentionScores:
    levels = zip(prediction.attention, bag.tissue_coverage, bag.heuristic_coverage, strict=True)
    return mean_attention(
        attention_scores(attention, tissue=tissue, heuristic=heuristic)
        for attention, tissue, heuristic in levels
    )
