"""How sure a number is: confidence intervals whose unit is the patient.

The bootstrap draws whole patients, for slides of one patient are alike. DeLong and Wilson
need no resampling but count every slide as a patient of its own.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from scipy.stats import t as student_t

from sagdeploy.config import Strict

LEVEL = 0.95
MIN_DEFINED = 0.5
"""Share of the resamples in which a number must be defined to have an interval."""

Statistic = Callable[[NDArray[np.intp]], dict[str, float | None]]
Float64 = NDArray[np.float64]


class Interval(Strict):
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    method: str
    """`BCa bootstrap over patients`, `percentile bootstrap over patients`, `DeLong`, ..."""


def bootstrap_intervals(
    statistic: Statistic, patients: Sequence[str], rng: np.random.Generator, *, resamples: int
) -> dict[str, Interval]:
    """Intervals of every number that `statistic` finds in slides, drawn by whole patients.

    statistic: takes the indices of slides, with repetition, and returns numbers by name
    patients:  the patient of each slide
    BCa where it is defined, else percentile; a number that is None for the slides
    themselves, or for half of the resamples, has no interval.
    """
    ids, patient_of = np.unique(np.asarray(patients), return_inverse=True)
    slides_of = [np.flatnonzero(patient_of == p) for p in range(len(ids))]
    values = statistic(np.arange(len(patients)))
    drawn = [
        statistic(np.concatenate([slides_of[p] for p in draw]))
        for draw in rng.integers(0, len(ids), (resamples, len(ids)))
    ]
    left_out = _jackknife(statistic, patient_of, len(ids))
    intervals = {
        name: _interval(value, _defined(drawn, name), _defined(left_out, name), resamples)
        for name, value in values.items()
        if value is not None
    }
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _jackknife(
    statistic: Statistic, patient_of: NDArray[np.intp], patients: int
) -> list[dict[str, float | None]]:
    if patients < 2:
        return []
    return [statistic(np.flatnonzero(patient_of != p)) for p in range(patients)]


def _defined(rows: Iterable[dict[str, float | None]], name: str) -> Float64:
    return np.array([value for row in rows if (value := row[name]) is not None])


def _interval(value: float, drawn: Float64, left_out: Float64, resamples: int) -> Interval | None:
    if len(drawn) < MIN_DEFINED * resamples:
        return None
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shares = _bca_shares(value, drawn, left_out, tails)
    method = "percentile" if shares is None else "BCa"
    low, high = np.quantile(drawn, tails if shares is None else shares)
    return Interval(value=value, low=low, high=high, method=f"{method} bootstrap over patients")


def _bca_shares(value: float, drawn: Float64, left_out: Float64, tails: Float64) -> Float64 | None:
    """Where to cut the resampled values (Efron 1987); None where the correction is undefined."""
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    deviation = left_out.mean() - left_out if len(left_out) else left_out
    spread = (deviation**2).sum()
    if not 0 < below < 1 or spread == 0:
        return None
    bias = norm.ppf(below)
    acceleration = (deviation**3).sum() / (6 * spread**1.5)
    z = bias + norm.ppf(tails)
    shares: Float64 = norm.cdf(bias + z / (1 - acceleration * z))
    return shares


def delong_interval(scores: Float64, is_positive: NDArray[np.bool_]) -> Interval | None:
    """The AUC of independent slides, with DeLong's variance; None where that is 0 or undefined."""
    positive, negative = scores[is_positive], scores[~is_positive]
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        return None
    ranks = rankdata(np.concatenate([positive, negative]))
    over_negatives = (ranks[:m] - rankdata(positive)) / n  # (m,) share that each positive beats
    over_positives = 1 - (ranks[m:] - rankdata(negative)) / m  # (n,)
    area = float(over_negatives.mean())
    variance = over_negatives.var(ddof=1) / m + over_positives.var(ddof=1) / n
    if variance == 0:
        return None
    margin = norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    return Interval(
        value=area, low=max(0.0, area - margin), high=min(1.0, area + margin), method="DeLong"
    )


def wilson_interval(share: float, slides: int) -> Interval:
    """A share of independent slides; sound where it is 0 or 1, too."""
    z = norm.ppf((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * slides)) / (1 + z**2 / slides)
    margin = z / (1 + z**2 / slides)
    margin *= np.sqrt(share * (1 - share) / slides + z**2 / (4 * slides**2))
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
