"""How many lesions attention finds at how many false alarms: FROC by Camelyon16's rule.

A detection is a tile whose attention no neighbour exceeds, at its centre. Its score is its
attention, as a share of the slide's highest, times the probability that the slide has a lesion
at all: attention sums to 1 on every slide, so that alone it would find something everywhere.
A lesion's score is that of the best detection in it; what hits isolated tumour cells counts
neither way. False alarms are counted on slides without lesions, as in the challenge's paper;
its published code counts those of all slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from sagdeploy.guidance.lesions import Lesions
from sagdeploy.slides.tiling import Tiles
from sagdeploy.training.metrics import ratio

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False alarms per normal slide at which the sensitivity is taken."""

FROC_METRICS = ("froc", *(f"froc_at_{rate:g}" for rate in RATES))
"""The mean of the six sensitivities, and each."""

BLOCK = 512
"""Alarms that are weighed at once, of all resamples: more would only take memory."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SlideDetections:
    """What was found on one slide: a slide has lesions, or it has false alarms."""

    lesions: Float64
    """(L,) best score on each lesion that counts, -inf for one that was missed."""

    false: Float64
    """Scores of the detections on a slide without lesions; empty on others."""

    is_normal: bool


NOTHING: Final = SlideDetections(np.zeros(0), np.zeros(0), is_normal=False)
"""Of a slide of which it is not known where its lesions are: it counts neither way."""


def detect(
    attention: Float64, tiles: Tiles, lesions: Lesions | None, *, probability: float
) -> SlideDetections:
    """What the attention of one slide finds.

    attention:   (N,)
    lesions:     those of the slide; None on a normal slide
    probability: that the slide has a lesion
    """
    peaks = local_maxima(attention, tiles)
    scores = attention[peaks] / attention.max() * probability
    if lesions is None:
        return SlideDetections(np.zeros(0), np.sort(scores)[::-1], is_normal=True)
    best = np.full(len(lesions.outlines) + 1, -np.inf)  # the last one for hits of no lesion
    np.maximum.at(best, lesions.at(tiles.xy_l0[peaks] + np.array(tiles.size_l0) / 2), scores)
    return SlideDetections(best[:-1][~lesions.is_isolated], np.zeros(0), is_normal=False)


def local_maxima(values: Float64, tiles: Tiles) -> NDArray[np.intp]:
    """Indices of the tiles that none of the eight around them exceeds."""
    column, row = ((tiles.xy_l0 - tiles.xy_l0.min(axis=0)) // tiles.size_l0).T
    lattice = np.full((row.max() + 1, column.max() + 1), -np.inf)
    np.maximum.at(lattice, (row, column), values)
    highest = maximum_filter(lattice, size=3, mode="constant", cval=-np.inf)
    return np.flatnonzero(values >= highest[row, column])


def weighted_froc(slides: Sequence[SlideDetections], weights: Float64) -> dict[str, Float64]:
    """FROC_METRICS for each of R weightings of n slides; NaN without lesions or normal slides.

    weights: (R, n) how often each slide counts
    The sensitivity at a rate is that of the lowest threshold that raises no more false alarms.
    """
    false, false_slide = _joined([slide.false for slide in slides])
    lesions, lesion_slide = _joined([slide.lesions for slide in slides])
    order = np.argsort(-false, kind="stable")
    ranked = np.append(false[order], -np.inf)
    of_lesions = weights[:, lesion_slide]  # (R, L)
    normal = weights @ np.array([float(slide.is_normal) for slide in slides])
    found = []
    for allowed in _allowed(weights, false_slide[order], np.outer(RATES, normal)):
        refused = ranked[allowed]  # (R,) the first too many
        hits = of_lesions * (lesions > refused[:, None])
        share = ratio(hits.sum(axis=1), of_lesions.sum(axis=1))
        found.append(np.where(normal > 0, share, np.nan))
    return dict(zip(FROC_METRICS, [np.mean(found, axis=0), *found], strict=True))


def _allowed(weights: Float64, alarm_slide: NDArray[np.intp], budgets: Float64) -> NDArray[np.intp]:
    """How many alarms, the strongest first, each of K budgets of each of R weightings allows.

    Slides of many tiles have tens of thousands of alarms, most of them beyond every budget: no
    more are weighed than until all are spent.
    weights:     (R, n) how often each slide counts
    alarm_slide: (D,) the slide of each alarm
    budgets:     (K, R)
    returns:     (K, R)
    """
    allowed = np.zeros(budgets.shape, np.intp)
    raised = np.zeros(len(weights))
    rows = np.flatnonzero(budgets.max(axis=0) > 0)
    for start in range(0, len(alarm_slide), BLOCK):
        rows = rows[raised[rows] <= budgets[:, rows].max(axis=0)]
        if not len(rows):
            break
        block = weights[np.ix_(rows, alarm_slide[start : start + BLOCK])].cumsum(axis=1)
        block += raised[rows, None]
        for budget, count in zip(budgets, allowed, strict=True):
            count[rows] += (block <= budget[rows, None]).sum(axis=1)
        raised[rows] = block[:, -1]
    return allowed


def _joined(parts: Sequence[Float64]) -> tuple[Float64, NDArray[np.intp]]:
    """All scores, and the slide of each."""
    counts = [len(part) for part in parts]
    return np.concatenate([*parts, np.zeros(0)]), np.repeat(np.arange(len(parts)), counts)
