"""Where attention lies: on tissue, on the annotated region, and what knowing nothing would give.

Alignment is not faithfulness: guidance teaches attention where to lie, so that it lies there
on slides it has not seen shows that the teaching carries over, not that it explains a diagnosis.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from sagdeploy.training.metrics import mean_of

POSITIVE_COVERAGE = 0.5
"""Share of a tile under the mask from which the tile counts as inside."""

TOP_SHARE = 0.01
"""Share of the tiles, at least one, that count as those of highest attention."""

Float64 = NDArray[np.float64]


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
    """1 if the tile of highest attention is inside, else 0; the share inside of several equal."""

    top_precision: float | None
    """Share of the 1 % of tiles of highest attention that are inside."""


ATTENTION_METRICS = tuple(field.name for field in fields(AttentionScores))


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
    ranks = bool(is_inside.any())  # a region thinner than half a tile has no tile inside
    top = max(1, round(TOP_SHARE * len(attention)))
    return AttentionScores(
        attention_on_tissue=on_tissue,
        attention_on_heuristic=float(attention @ heuristic),
        uniform_on_heuristic=float(heuristic.mean()),
        attention_auprc=float(average_precision_score(is_inside, attention)) if ranks else None,
        chance_auprc=float(is_inside.mean()) if ranks else None,
        pointing_game=_share_inside(attention, is_inside, tiles=1) if ranks else None,
        top_precision=_share_inside(attention, is_inside, tiles=top) if ranks else None,
    )


def mean_attention(scores: Iterable[AttentionScores]) -> AttentionScores:
    """Mean of each score over the slides that have it."""
    rows = [asdict(row) for row in scores]
    return AttentionScores(
        **{name: mean_of(row[name] for row in rows) for name in ATTENTION_METRICS}
    )


def _share_inside(attention: Float64, is_inside: NDArray[np.bool_], *, tiles: int) -> float:
    """Share of the `tiles` of highest attention that are inside; equal ones are drawn from."""
    least = np.partition(attention, -tiles)[-tiles]
    above, equal = attention > least, attention == least
    drawn = (tiles - above.sum()) * is_inside[equal].mean()
    return float((is_inside[above].sum() + drawn) / tiles)
