"""How sure a number is: confidence intervals whose unit is the patient.

The bootstrap draws whole patients, for slides of one patient are alike. The closed forms,
DeLong, Newcombe and Wilson, need no resampling but count every slide as a patient of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from scipy.stats import t as student_t

from sagdeploy.config import Strict

LEVEL = 0.95
Z = float(norm.ppf((1 + LEVEL) / 2))
MIN_DEFINED = 0.5
"""Share of the resamples in which a number must be defined to have an interval."""

BLOCK_CELLS = 2**20
"""Weights that are handed to a statistic at once: what bounds the memory."""

Float64 = NDArray[np.float64]
Statistic = Callable[[Float64], dict[str, Float64]]
"""Numbers by name for R weightings of n slides: (R, n) -> (..., R) each, NaN where undefined."""


class Interval(Strict):
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: str
    """`BCa bootstrap over patients`, `percentile bootstrap over patients`, `DeLong`, ..."""

    def within(self, least: float, most: float) -> Self:
        """As much of the interval as is possible for a number from `least` to `most`."""
        return self.model_copy(update={"low": max(self.low, least), "high": min(self.high, most)})


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """What a statistic gives for the slides, and for other draws of their patients."""

    value: Float64
    """(...)"""

    drawn: Float64
    """(..., R) of the bootstrap's resamples"""

    left_out: Float64
    """(..., P) without each patient in turn"""


def resample(
    statistic: Statistic, patients: Sequence[str], rng: np.random.Generator, *, resamples: int
) -> dict[str, Resampled]:
    """A statistic of slides for `resamples` draws of whole patients, and without each of them.

    patients: the patient of each slide
    """
    ids, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    drawn = rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), size=resamples)
    rows = np.concatenate([np.ones((1, len(ids))), 1 - np.eye(len(ids)), drawn])
    step = max(1, BLOCK_CELLS // len(patients))
    blocks = [
        statistic(rows[start : start + step][:, patient_of]) for start in range(0, len(rows), step)
    ]
    after = 1 + len(ids)
    found = {}
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks], axis=-1)
        found[name] = Resampled(values[..., 0], values[..., after:], values[..., 1:after])
    return found


def bootstrap_intervals(
    statistic: Statistic, patients: Sequence[str], rng: np.random.Generator, *, resamples: int
) -> dict[str, Interval]:
    """Intervals of every number that `statistic` finds in slides, drawn by whole patients.

    statistic: returns (R,) each
    BCa where it is defined, else percentile; a number that is NaN for the slides themselves, or
    for half of the resamples, has no interval.
    """
    found = resample(statistic, patients, rng, resamples=resamples)
    intervals = {name: bootstrap_interval(values) for name, values in found.items()}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def bootstrap_interval(found: Resampled) -> Interval | None:
    """The BCa interval of one number, `found` having (R,) draws; percentile where that fails.

    None where all draws are the same: slides that are all alike say nothing of others.
    """
    if len(np.unique(found.drawn[np.isfinite(found.drawn)])) < 2:
        return None
    correction = _bca_correction(found)
    if correction is None:
        return percentile_interval(found)
    bias, acceleration = correction
    z = bias + np.array([-Z, Z])
    return _cut(found, norm.cdf(bias + z / (1 - acceleration * z)), "BCa")


def percentile_interval(found: Resampled) -> Interval | None:
    """The interval between the draws' own quantiles; None where the number is undefined."""
    return _cut(found, norm.cdf([-Z, Z]), "percentile")


def _cut(found: Resampled, shares: Float64, kind: str) -> Interval | None:
    drawn = found.drawn[np.isfinite(found.drawn)]
    value = float(found.value)
    if np.isnan(value) or len(drawn) < MIN_DEFINED * len(found.drawn):
        return None
    low, high = np.quantile(drawn, shares)
    return Interval(value=value, low=low, high=high, method=f"{kind} bootstrap over patients")


def _bca_correction(found: Resampled) -> tuple[float, float] | None:
    """Bias and acceleration (Efron 1987); None where they are undefined."""
    drawn = found.drawn[np.isfinite(found.drawn)]
    left_out = found.left_out[np.isfinite(found.left_out)]
    if not len(left_out):
        return None
    below = ((drawn < found.value).mean() + (drawn <= found.value).mean()) / 2
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum()
    if not 0 < below < 1 or spread == 0:
        return None
    return float(norm.ppf(below)), float((deviation**3).sum() / (6 * spread**1.5))


def auc_interval(views: Sequence[Float64], labels: NDArray[np.intp]) -> Interval | None:
    """The mean AUC of several views of independent slides; None where it is undefined.

    views: (n, C) probabilities each, of the same slides
    DeLong's variance, on the scale of log-odds, where an AUC near 1 has room above it;
    Newcombe's score interval where that variance is 0, as for a perfect AUC, there with the
    rarest class against all others.
    """
    counts = np.bincount(labels, minlength=views[0].shape[1])
    occurring = counts[counts > 0]
    if len(occurring) < 2:
        return None
    shares = np.mean([_auc_shares(view, labels) for view in views], axis=0)  # (n,)
    area = float(np.mean([_macro_auc(view, labels) for view in views]))
    variance = 0.0
    for label in np.flatnonzero(counts):
        own = shares[labels == label]
        variance += float(own.var(ddof=1)) / len(own) if len(own) > 1 else np.nan
    if np.isnan(variance):
        return None
    if variance < np.finfo(np.float64).eps:
        rarest = int(occurring.min())
        return newcombe_interval(area, positives=rarest, negatives=len(labels) - rarest)
    margin = Z * np.sqrt(variance) / (area * (1 - area))
    low, high = expit(logit(area) - margin), expit(logit(area) + margin)
    return Interval(value=area, low=low, high=high, method="DeLong")


def _macro_auc(probabilities: Float64, labels: NDArray[np.intp]) -> float:
    judged = [c for c in range(probabilities.shape[1]) if (labels == c).any()]
    return float(
        np.mean([_placements(probabilities[:, c], labels == c)[labels == c].mean() for c in judged])
    )


def _auc_shares(probabilities: Float64, labels: NDArray[np.intp]) -> Float64:
    """What each slide adds to the macro AUC, (n,): its variance within classes is DeLong's.

    A slide is a positive of its own class and one of the negatives of the others.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    judged = np.flatnonzero(counts)
    shares = np.zeros(len(labels))
    for c in judged:
        part = counts[labels] / (len(labels) - counts[c])  # of the negatives, (n,)
        placements = _placements(probabilities[:, c], labels == c)
        shares += np.where(labels == c, 1.0, part) * placements
    return shares / len(judged)


def _placements(scores: Float64, is_positive: NDArray[np.bool_]) -> Float64:
    """Share of the other kind that each slide is ranked rightly against, (n,)."""
    ranks = rankdata(scores)
    own = np.empty(len(scores))
    for kind in (is_positive, ~is_positive):
        own[kind] = rankdata(scores[kind])
    positives = is_positive.sum()
    share: Float64 = (ranks - own) / np.where(is_positive, len(scores) - positives, positives)
    return np.where(is_positive, share, 1 - share)


def newcombe_interval(area: float, *, positives: int, negatives: int) -> Interval:
    """An AUC of independent slides (Newcombe 2006, method 5); sound where it is 0 or 1, too."""
    spare = (positives + negatives) / 2 - 1

    def excess(truth: float) -> float:
        inner = 1 + spare * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * inner / (positives * negatives)
        return (area - truth) ** 2 - Z**2 * float(variance)

    low = 0.0 if area == 0 else float(brentq(excess, 0, area - 1e-12))
    high = 1.0 if area == 1 else float(brentq(excess, area + 1e-12, 1))
    return Interval(value=area, low=low, high=high, method="Newcombe")


def wilson_interval(share: float, slides: int) -> Interval:
    """A share of independent slides; sound where it is 0 or 1, too."""
    centre = (share + Z**2 / (2 * slides)) / (1 + Z**2 / slides)
    margin = Z / (1 + Z**2 / slides)
    margin *= np.sqrt(share * (1 - share) / slides + Z**2 / (4 * slides**2))
    return Interval(
        value=share, low=max(0.0, centre - margin), high=min(1.0, centre + margin), method="Wilson"
    )


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent values, by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    margin = student_t.ppf((1 + LEVEL) / 2, len(values) - 1)
    margin *= np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(value=mean, low=mean - margin, high=mean + margin, method="Student's t")
