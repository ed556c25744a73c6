"""Attention that knows no model: what a map must beat before it says anything.

Uniform over tissue looks at all tissue alike; nuclear density looks where cells are many; the
centre prior looks at the middle of the tiles, whatever is there.
"""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from sagdeploy.guidance.density import cells_per_tile
from sagdeploy.training.alignment import ATTENTION_METRICS, AttentionScores
from sagdeploy.training.dataset import Bags, LabelledBag
from sagdeploy.training.intervals import Interval, bootstrap_intervals
from sagdeploy.training.judgement import attention_on
from sagdeploy.training.landmarks import Landmarks
from sagdeploy.training.panel import RESAMPLING_SEED, known_means

UNIFORM = "uniform over tissue"
DENSITY = "nuclear density"
CENTRE = "centre prior"

CENTRE_SPREAD = 0.25
"""Standard deviation of the centre prior, as a share of the sides of what the tiles cover."""

Float64 = NDArray[np.float64]
Maps = Sequence[Float64]
"""(N,) a magnification; sums to 1."""

NOWHERE = AttentionScores(None, None, None, None, None, None, None)


def baselines(
    bags: Bags, landmarks: Landmarks, *, resamples: int
) -> dict[str, dict[str, Interval]]:
    """Where maps lie that know no model, by name of map and metric; over patients."""
    scores: dict[str, list[AttentionScores]] = {UNIFORM: [], DENSITY: [], CENTRE: []}
    patients = []
    for bag in bags:
        maps = {UNIFORM: _uniform(bag), DENSITY: _density(bag, landmarks), CENTRE: _centre(bag)}
        patients.append(bag.patient_id)
        for name, own in maps.items():
            scores[name].append(attention_on(bag, own) if own else NOWHERE)
    return {
        name: _intervals(rows, patients, resamples)
        for name, rows in scores.items()
        if any(row != NOWHERE for row in rows)
    }


def _intervals(
    scores: Sequence[AttentionScores], patients: Sequence[str], resamples: int
) -> dict[str, Interval]:
    own = np.array([astuple(row) for row in scores], np.float64)  # (n, K), None is NaN

    def statistic(weights: Float64) -> dict[str, Float64]:
        return dict(zip(ATTENTION_METRICS, known_means(own, weights), strict=True))

    rng = np.random.default_rng(RESAMPLING_SEED)
    return bootstrap_intervals(statistic, patients, rng, resamples=resamples)


def _uniform(bag: LabelledBag) -> Maps | None:
    """As much on each tile as it has tissue; None where that is not known."""
    shares = [share for share in bag.tissue_coverage if share is not None and share.any()]
    if len(shares) < len(bag.features):
        return None
    return [share / share.sum() for share in shares]


def _density(bag: LabelledBag, landmarks: Landmarks) -> Maps | None:
    """As much on each tile as it has cells; None where they are not known, or there are none."""
    cells = landmarks.cells.get(bag.slide_id)
    placed = [tiles for tiles in bag.tiles if tiles is not None]
    if cells is None or len(placed) < len(bag.features):
        return None
    counts = [cells_per_tile(cells, tiles) for tiles in placed]
    return [count / count.sum() for count in counts] if all(c.any() for c in counts) else None


def _centre(bag: LabelledBag) -> Maps | None:
    """A bell over the middle of the tiles; None where they have no places."""
    placed = [tiles for tiles in bag.tiles if tiles is not None]
    if len(placed) < len(bag.features):
        return None
    bells = []
    for tiles in placed:
        low, high = tiles.xy_l0.min(axis=0), tiles.xy_l0.max(axis=0) + tiles.size_l0
        off = (tiles.xy_l0 + np.divide(tiles.size_l0, 2) - (low + high) / 2) / (high - low)
        bells.append(np.exp(-0.5 * np.square(off / CENTRE_SPREAD).sum(axis=1)))
    return [bell / bell.sum() for bell in bells]
