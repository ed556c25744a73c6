"""From which probability on a slide is called positive: chosen on validation, never on test.

The paper's public code takes the threshold that is best on the test labels. Here it is the
one that is best on validation, by the same measure, and what it is worth elsewhere is told
beside the accuracy of the likeliest class.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sagdeploy.training.metrics import mean_of

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdScores:
    """Whether the validation's threshold is right about a slide; over slides, how often."""

    accuracy_at_threshold: float | None
    sensitivity_at_threshold: float | None
    """Of a slide of the second class alone."""

    specificity_at_threshold: float | None
    """Of a slide of the first class alone."""


THRESHOLD_METRICS = tuple(field.name for field in fields(ThresholdScores))
NO_THRESHOLD: Final = ThresholdScores(None, None, None)


def fit_threshold(probabilities: Float64, labels: NDArray[np.intp]) -> float | None:
    """The threshold of the largest true minus false positive rate (Youden's index).

    It lies midway between two slides; of equally good ones it is the nearest to 1/2.
    None where there are more than two classes, or slides of only one.

    probabilities: (n, C)
    """
    is_positive = labels == 1
    if probabilities.shape[1] != 2 or is_positive.all() or not is_positive.any():
        return None
    scores = np.unique(probabilities[:, 1])
    between = np.concatenate([[scores[0]], (scores[1:] + scores[:-1]) / 2])  # (T,)
    is_above = probabilities[:, 1] >= between[:, None]  # (T, n)
    youden = is_above[:, is_positive].mean(axis=1) - is_above[:, ~is_positive].mean(axis=1)
    best = between[youden >= youden.max() - np.finfo(np.float64).eps]
    return float(best[np.abs(best - 0.5).argmin()])


def threshold_scores(
    probabilities: Float64, label: int, threshold: float | None
) -> ThresholdScores:
    """What the threshold says of one slide of (C,) probabilities; nothing where there is none."""
    if threshold is None:
        return NO_THRESHOLD
    is_right = float((probabilities[1] >= threshold) == (label == 1))
    return ThresholdScores(
        accuracy_at_threshold=is_right,
        sensitivity_at_threshold=is_right if label == 1 else None,
        specificity_at_threshold=is_right if label == 0 else None,
    )


def mean_thresholded(scores: Iterable[ThresholdScores]) -> ThresholdScores:
    """Mean of each score over the slides, or seeds, that have it."""
    rows = [asdict(row) for row in scores]
    return ThresholdScores(
        **{name: mean_of(row[name] for row in rows) for name in THRESHOLD_METRICS}
    )
