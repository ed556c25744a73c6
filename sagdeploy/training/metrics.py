"""How good diagnoses are: every metric for many weightings of the same slides at once.

A bootstrap's resample is a weighting: how often each slide was drawn. Two thousand resamples
are then a few products of matrices, not two thousand passes over the slides. A number that
the data do not define is NaN in an array, and None outside: the AUC of one class.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 10

Metrics = dict[str, float | None]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DiagnosisScores:
    """How good the probabilities of a set of slides are."""

    accuracy: float
    majority_accuracy: float
    """Of always answering the commonest class of these slides."""

    balanced_accuracy: float
    """Mean recall of the classes that occur: recall_macro by its other name."""

    auc: float | None
    """Two classes: of the second. More: mean of the classes' one-versus-rest AUCs."""

    precision_macro: float
    recall_macro: float
    """Means over the classes that occur; a class never predicted has precision 0."""

    precision_positive: float | None
    recall_positive: float | None
    """Of the second of two classes alone; None with more classes."""

    log_loss: float
    brier: float
    """Squared distance between probabilities and truth, summed over the classes."""

    ece: float
    """Expected calibration error: depends on its bins, and noisy below hundreds of slides."""


DIAGNOSIS_METRICS = tuple(field.name for field in fields(DiagnosisScores))


def diagnosis_scores(probabilities: Float64, labels: NDArray[np.intp]) -> DiagnosisScores:
    """Scores of (n, C) probabilities against (n,) labels; n is at least 1."""
    weighted = weighted_diagnosis(probabilities, labels, np.ones((1, len(labels))))
    return DiagnosisScores(**{name: defined(values[0]) for name, values in weighted.items()})  # type: ignore[arg-type]  # those that cannot be None are defined for n > 0


def weighted_diagnosis(
    probabilities: Float64, labels: NDArray[np.intp], weights: Float64
) -> dict[str, Float64]:
    """The scores of DiagnosisScores, by name, for each of R weightings of n slides.

    probabilities: (n, C)
    weights:       (R, n) how often each slide counts
    returns:       (R,) each, NaN where undefined
    """
    slides, classes = probabilities.shape
    total = weights.sum(axis=1)
    truth, predicted = np.eye(classes)[labels], np.eye(classes)[probabilities.argmax(axis=1)]
    hits, support = weights @ (truth * predicted), weights @ truth  # (R, C)
    occurs = support > 0
    recall = np.nan_to_num(ratio(hits, support))
    precision = np.nan_to_num(ratio(hits, weights @ predicted))
    recall_macro = ratio((recall * occurs).sum(axis=1), occurs.sum(axis=1))
    undefined = np.full(len(weights), np.nan)
    likelihood = np.maximum(probabilities[np.arange(slides), labels], np.finfo(np.float64).tiny)
    squared = ((probabilities - truth) ** 2).sum(axis=1)
    return {
        "accuracy": ratio(hits.sum(axis=1), total),
        "majority_accuracy": ratio(support.max(axis=1), total),
        "balanced_accuracy": recall_macro,
        "auc": weighted_auc(probabilities, labels, weights),
        "precision_macro": ratio((precision * occurs).sum(axis=1), occurs.sum(axis=1)),
        "recall_macro": recall_macro,
        "precision_positive": precision[:, 1] if classes == 2 else undefined,
        "recall_positive": (
            np.where(occurs[:, 1], recall[:, 1], np.nan) if classes == 2 else undefined
        ),
        "log_loss": ratio(weights @ -np.log(likelihood), total),
        "brier": ratio(weights @ squared, total),
        "ece": ratio(_calibration_gap(probabilities, labels, weights), total),
    }


def weighted_auc(probabilities: Float64, labels: NDArray[np.intp], weights: Float64) -> Float64:
    """Area under the ROC curve, macro one-versus-rest, for each of R weightings: (R,).

    NaN where only one class occurs.
    """
    classes = probabilities.shape[1]
    judged = [1] if classes == 2 else range(classes)
    areas = np.stack(
        [weighted_binary_auc(probabilities[:, c], labels == c, weights) for c in judged]
    )
    return nan_mean(areas)


def weighted_binary_auc(
    scores: Float64, is_positive: NDArray[np.bool_], weights: Float64
) -> Float64:
    """Chance that a positive scores higher than a negative, ties counting half: (R,)."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    negatives = np.where(is_positive[order], 0.0, weights[:, order])  # (R, n)
    summed = np.pad(negatives.cumsum(axis=1), ((0, 0), (1, 0)))
    below = summed[:, np.searchsorted(ranked, scores[is_positive], side="left")]
    up_to = summed[:, np.searchsorted(ranked, scores[is_positive], side="right")]
    positive = weights[:, is_positive]
    wins = (positive * (below + up_to)).sum(axis=1) / 2
    return ratio(wins, positive.sum(axis=1) * summed[:, -1])


def ratio(above: Float64, below: NDArray[np.float64 | np.intp]) -> Float64:
    """above / below, NaN where below is 0."""
    out = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=out, where=below != 0)
    return out


def nan_mean(values: Float64) -> Float64:
    """Mean over the first axis of what is defined; NaN where nothing is."""
    is_defined = np.isfinite(values)
    return ratio(np.where(is_defined, values, 0.0).sum(axis=0), is_defined.sum(axis=0))


def defined(value: float) -> float | None:
    """The number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _calibration_gap(probabilities: Float64, labels: NDArray[np.intp], weights: Float64) -> Float64:
    """Distance between hits and confidence, summed over bins of equal width: (R,)."""
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = np.eye(ECE_BINS)[bins] * (is_right - confidence)[:, None]  # (n, bins)
    return np.asarray(np.abs(weights @ gap).sum(axis=1))
