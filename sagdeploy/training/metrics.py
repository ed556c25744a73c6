"""How good diagnoses are, how far their probabilities can be believed, and where attention lies.

Arrays in, numbers out. A number that the data do not define is None: the AUC of one class,
the attention on an annotation that a slide does not have.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

ECE_BINS = 10
TEMPERATURE_SD = 0.5
"""Of the prior on the logarithm of a temperature: most models need 0.4 to 2.7."""

TEMPERATURES = (0.05, 20.0)
"""Between which the temperature is sought."""

POSITIVE_COVERAGE = 0.5
"""Share of a tile under the mask from which the tile counts as inside."""

TOP_SHARE = 0.01
"""Share of the tiles, at least one, that count as those of highest attention."""

Metrics = dict[str, float | None]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DiagnosisScores:
    """How good the probabilities of a set of slides are."""

    accuracy: float
    majority_accuracy: float
    """Of always answering the commonest class of these slides."""

    balanced_accuracy: float
    """Mean recall of the classes that occur."""

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


@dataclass(frozen=True, slots=True)
class AttentionScores:
    """Where the attention of one slide lies; heuristic scores need an annotated region."""

    attention_on_tissue: float | None
    """Share of the attention that lies on tissue, by area."""

    attention_on_heuristic: float | None
    """Share of the attention that lies on the heuristic region, by area."""

    uniform_on_heuristic: float | None
    """The same share of an attention that is equal on all tiles."""

    attention_auprc: float | None
    """Average precision of attention as a detector of the tiles inside the region."""

    chance_auprc: float | None
    """Average precision of chance: the share of tiles inside."""

    pointing_game: float | None
    """1 if the tile of highest attention is inside, else 0."""

    top_precision: float | None
    """Share of the 1 % of tiles of highest attention that are inside."""


def diagnosis_scores(probabilities: Float64, labels: NDArray[np.intp]) -> DiagnosisScores:
    """Scores of (n, C) probabilities against (n,) labels; n is at least 1."""
    slides, classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes))  # (truth, predicted)
    np.add.at(confusion, (labels, predicted), 1)
    hits, support = confusion.diagonal(), confusion.sum(axis=1)
    recall = hits / np.maximum(support, 1)
    precision = hits / np.maximum(confusion.sum(axis=0), 1)
    occurs = support > 0
    is_binary = classes == 2
    return DiagnosisScores(
        accuracy=float(hits.sum() / slides),
        majority_accuracy=float(support.max() / slides),
        balanced_accuracy=float(recall[occurs].mean()),
        auc=auc(probabilities, labels),
        precision_macro=float(precision[occurs].mean()),
        recall_macro=float(recall[occurs].mean()),
        precision_positive=float(precision[1]) if is_binary else None,
        recall_positive=float(recall[1]) if is_binary and occurs[1] else None,
        log_loss=log_loss(probabilities, labels),
        brier=float(((probabilities - np.eye(classes)[labels]) ** 2).sum(axis=1).mean()),
        ece=expected_calibration_error(probabilities, labels),
    )


def auc(probabilities: Float64, labels: NDArray[np.intp]) -> float | None:
    """Area under the ROC curve, macro one-versus-rest; None where only one class occurs."""
    classes = probabilities.shape[1]
    judged = [1] if classes == 2 else range(classes)
    areas = [binary_auc(probabilities[:, c], labels == c) for c in judged]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def binary_auc(scores: Float64, is_positive: NDArray[np.bool_]) -> float | None:
    """Chance that a positive scores higher than a negative, ties counting half."""
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return None
    rank_sum = rankdata(scores)[is_positive].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(probabilities: Float64, labels: NDArray[np.intp]) -> float:
    """Mean negative log-likelihood of the truth, finite even where its probability is 0."""
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def expected_calibration_error(probabilities: Float64, labels: NDArray[np.intp]) -> float:
    """Mean distance between confidence and accuracy over bins of equal width."""
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gap = np.bincount(bins, weights=is_right - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(labels))


def calibrated(logits: Float64, temperature: float) -> Float64:
    """(n, C) probabilities of (n, C) logits at a temperature."""
    probabilities: Float64 = softmax(logits / temperature, axis=1)
    return probabilities


def fit_temperature(logits: Float64, labels: NDArray[np.intp]) -> float:
    """The temperature at which validation slides are most likely, held near 1 by a few.

    The prior on its logarithm is normal around 0: ten slides, nine of them right, do not
    make a model certain, while it is nothing beside hundreds. 1 where every slide is right:
    the likelihood then only grows with the confidence, and the slides say nothing about it.
    """
    if not len(labels) or (logits.argmax(axis=1) == labels).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        likelihood = scaled[np.arange(len(labels)), labels].sum()
        return float(log_temperature**2 / (2 * TEMPERATURE_SD**2) - likelihood)

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def attention_scores(
    attention: Float64, *, tissue: Float64 | None, heuristic: Float64 | None
) -> AttentionScores:
    """Where the attention of one slide lies, by the coverage of its tiles.

    attention:         (N,) sums to 1
    tissue, heuristic: (N,) share of each tile under the mask; None or all 0 where there is none
    """
    on_tissue = float(attention @ tissue) if tissue is not None and tissue.any() else None
    if heuristic is None or not heuristic.any():
        return AttentionScores(on_tissue, None, None, None, None, None, None)
    is_inside = heuristic >= POSITIVE_COVERAGE
    top = np.argsort(-attention, kind="stable")[: max(1, round(TOP_SHARE * len(attention)))]
    ranks = bool(is_inside.any())  # a region thinner than half a tile has no tile inside
    return AttentionScores(
        attention_on_tissue=on_tissue,
        attention_on_heuristic=float(attention @ heuristic),
        uniform_on_heuristic=float(heuristic.mean()),
        attention_auprc=float(average_precision_score(is_inside, attention)) if ranks else None,
        chance_auprc=float(is_inside.mean()) if ranks else None,
        pointing_game=float(is_inside[top[0]]) if ranks else None,
        top_precision=float(is_inside[top].mean()) if ranks else None,
    )


ATTENTION_METRICS = tuple(field.name for field in fields(AttentionScores))
DIAGNOSIS_METRICS = tuple(field.name for field in fields(DiagnosisScores))


def mean_attention(scores: Iterable[AttentionScores]) -> AttentionScores:
    """Mean of each score over the slides that have it."""
    rows = [asdict(row) for row in scores]
    return AttentionScores(
        **{name: mean_of(row[name] for row in rows) for name in ATTENTION_METRICS}
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined; None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
