"""Views of the same patients by several seeds, and the numbers and intervals that follow."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np

from sagdeploy.training.alignment import ATTENTION_METRICS
from sagdeploy.training.faithfulness import FAITHFULNESS_METRICS
from sagdeploy.training.froc import weighted_froc
from sagdeploy.training.intervals import (
    Interval,
    auc_interval,
    bootstrap_intervals,
    newcombe_interval,
    wilson_interval,
)
from sagdeploy.training.judgement import SlideJudgement, averaged
from sagdeploy.training.metrics import (
    Float64,
    Metrics,
    defined,
    nan_mean,
    ratio,
    weighted_diagnosis,
)
from sagdeploy.training.thresholds import THRESHOLD_METRICS

RESAMPLING_SEED = 0
"""An interval must be the same each time that it is asked for."""

SLIDE_METRICS = (*ATTENTION_METRICS, *FAITHFULNESS_METRICS, *THRESHOLD_METRICS)
"""What every slide has by itself: of several slides it is the mean."""

EXTENT: Final = {"log_loss": math.inf, "brier": 2.0, "deletion_gain": 2.0, "insertion_gain": 2.0}
"""How far apart two values of a metric can be, where it is no share: of a share it is 1."""

_attention, _faithfulness = attrgetter(*ATTENTION_METRICS), attrgetter(*FAITHFULNESS_METRICS)
_thresholded = attrgetter(*THRESHOLD_METRICS)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Views of the same patients, ready to be weighed together."""

    slides: tuple[SlideJudgement, ...]
    """Each once, the mean of the views, by id."""

    views: tuple[tuple[SlideJudgement, ...], ...]
    """What each seed, or fold of a seed, says of its slides."""

    @property
    def patients(self) -> list[str]:
        """The patient of each slide."""
        return [slide.patient_id for slide in self.slides]

    def metrics(self, weights: Float64) -> dict[str, Float64]:
        """All metrics of each of V views for each of R weightings of the slides: (V, R).

        weights: (R, n) how often each slide counts
        """
        place = {slide.slide_id: index for index, slide in enumerate(self.slides)}
        rows = [
            weighted_metrics(view, weights[:, [place[slide.slide_id] for slide in view]])
            for view in self.views
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def mean_metrics(self, weights: Float64) -> dict[str, Float64]:
        """The mean of the views, (R,)."""
        return {name: nan_mean(values) for name, values in self.metrics(weights).items()}


def panel(views: Iterable[Sequence[SlideJudgement]]) -> Panel:
    """Views, together with the slides that they are of."""
    own = tuple(tuple(view) for view in views)
    return Panel(tuple(averaged(slide for view in own for slide in view)), own)


def weighted_metrics(slides: Sequence[SlideJudgement], weights: Float64) -> dict[str, Float64]:
    """All metrics of some slides for each of R weightings of them: (R,) each."""
    probabilities = np.stack([slide.probabilities for slide in slides])  # (n, C)
    labels = np.array([slide.label for slide in slides])
    own = np.array([slide_scores(slide) for slide in slides], np.float64)  # (n, K), None is NaN
    return (
        weighted_diagnosis(probabilities, labels, weights)
        | dict(zip(SLIDE_METRICS, known_means(own, weights), strict=True))
        | weighted_froc([slide.detections for slide in slides], weights)
    )


def slide_scores(slide: SlideJudgement) -> tuple[float | None, ...]:
    """What one slide has of SLIDE_METRICS, in their order."""
    return (
        *_attention(slide.attention),
        *_faithfulness(slide.faithfulness),
        *_thresholded(slide.thresholded),
    )


def known_means(values: Float64, weights: Float64) -> Float64:
    """Mean of what is known, for each of R weightings: (n, K), (R, n) -> (K, R)."""
    is_known = np.isfinite(values)
    return ratio(weights @ np.where(is_known, values, 0.0), weights @ is_known).T


def scores_of(slides: Sequence[SlideJudgement]) -> Metrics:
    """All metrics of some slides, by name."""
    weighted = weighted_metrics(slides, np.ones((1, len(slides))))
    return {name: defined(values[0]) for name, values in weighted.items()}


def intervals_of(
    views: Sequence[Sequence[SlideJudgement]], *, resamples: int
) -> dict[str, Interval]:
    """Intervals over patients of all metrics, each the mean over the views of some slides.

    views: what each seed says of its slides, or one view that is the mean of the seeds
    Where every slide has its own patient, closed forms stand in for the bootstrap, or beside
    it. Where all answers are right no resample differs, and they stand in for it anyway, with
    as many slides as there are patients.
    """
    together = panel(views)
    rng = np.random.default_rng(RESAMPLING_SEED)
    intervals = bootstrap_intervals(
        together.mean_metrics, together.patients, rng, resamples=resamples
    )
    patients = len(set(together.patients))
    is_alone = patients == len(together.slides)
    accuracy = defined(together.mean_metrics(np.ones((1, len(together.slides))))["accuracy"][0])
    if accuracy is not None and (is_alone or "accuracy" not in intervals):
        intervals["accuracy"] = wilson_interval(accuracy, patients)
    area = _auc_interval(together)
    if area is None:
        return intervals
    if area.method == "DeLong" and is_alone:
        intervals["auc_delong"] = area
    elif area.method == "Newcombe" and "auc" not in intervals:
        intervals["auc"] = area
    return intervals


def _auc_interval(together: Panel) -> Interval | None:
    """The closed form of the mean AUC, where all views are of all slides."""
    if any(len(view) < len(together.slides) for view in together.views):
        return None
    views = [
        np.stack([slide.probabilities for slide in sorted(view, key=lambda slide: slide.slide_id)])
        for view in together.views
    ]
    area = auc_interval(views, np.array([slide.label for slide in together.slides]))
    if area is None or area.method != "Newcombe":
        return area
    pairs = {(slide.label, slide.patient_id) for slide in together.slides}
    counts = sorted(Counter(label for label, _ in pairs).values())
    return newcombe_interval(area.value, positives=counts[0], negatives=sum(counts[1:]))
