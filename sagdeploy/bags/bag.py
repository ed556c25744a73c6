"""A slide's tiles as features, with their places and guidance.

Places are stored with the features, in one order that cannot get lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.config import Strict
from sagdeploy.errors import BagError
from sagdeploy.guidance.weights import guidance_weights
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.metadata import MppSource
from sagdeploy.slides.tiling import TilePlan, Tiles

Coverage = NDArray[np.float64]


class BagHeader(Strict):
    """Where a bag comes from: the same header means the same bag.

    None stands for what a file of other software does not say; `extract` leaves nothing open.
    """

    schema_version: Literal[1] = 1
    slide_id: str
    slide_size_l0: tuple[int, int] | None
    mpp: float | None
    """Microns per pixel of the slide at level 0."""

    mpp_source: MppSource | None
    plan: TilePlan | None
    extractor: ExtractorCard
    slide_sha256: str | None
    origin: str = ""
    """Which other software made the features, and what it says of its tiles."""

    @property
    def magnifications(self) -> int:
        """How many a bag has; other software has one."""
        return len(self.plan.mpp) if self.plan else 1


@dataclass(frozen=True, slots=True, eq=False)
class Magnification:
    """The tiles of a slide at one magnification, as features."""

    tiles: Tiles | None
    """None where a file of other software does not say where its tiles lie."""

    features: NDArray[np.float32]
    """(N, E) in the order of the tiles."""

    tissue_coverage: Coverage | None = None
    """(N,) share of each tile that is tissue; None where nobody looked."""

    heuristic_coverage: Coverage | None = None
    """(N,) share of each tile that is annotated or full of cells; None where nobody looked."""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def tissue_guidance(self) -> NDArray[np.float32]:
        """TG of Eq. 3, (N,); all 0 where absent."""
        return self._guidance(self.tissue_coverage)

    @property
    def heuristic_guidance(self) -> NDArray[np.float32]:
        """HG of Eq. 3, (N,); all 0 where absent."""
        return self._guidance(self.heuristic_coverage)

    def _guidance(self, coverage: Coverage | None) -> NDArray[np.float32]:
        if coverage is None:
            return np.zeros(len(self), np.float32)
        return guidance_weights(coverage)


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """One slide's tiles as features; BagError where its parts do not fit together."""

    header: BagHeader
    magnifications: tuple[Magnification, ...]

    def __post_init__(self) -> None:
        expected = self.header.magnifications
        if len(self.magnifications) != expected:
            raise BagError(
                f"{self.header.slide_id}: {len(self.magnifications)} magnifications, "
                f"its plan has {expected}"
            )
        for index, magnification in enumerate(self.magnifications):
            problem = _problem(magnification, self.header.extractor.features)
            if self.header.plan and magnification.tiles is None:
                problem = "has a plan, but no coords"
            if problem:
                raise BagError(f"{self.header.slide_id}, magnification {index}: {problem}")


def with_guidance(
    bag: Bag,
    *,
    tissue: Sequence[Coverage] | None = None,
    heuristic: Sequence[Coverage] | None = None,
) -> Bag:
    """The bag with new coverage, one (N,) a magnification; what is not given stays."""
    magnifications = bag.magnifications
    if tissue is not None:
        pairs = zip(magnifications, tissue, strict=True)
        magnifications = tuple(replace(each, tissue_coverage=share) for each, share in pairs)
    if heuristic is not None:
        pairs = zip(magnifications, heuristic, strict=True)
        magnifications = tuple(replace(each, heuristic_coverage=share) for each, share in pairs)
    return replace(bag, magnifications=magnifications)


def _problem(magnification: Magnification, width: int) -> str:
    """What is wrong with a magnification, whose features should be so wide; or nothing."""
    features, placed = magnification.features, magnification.tiles
    tiles = len(features) if placed is None else len(placed)
    if features.dtype != np.float32 or features.shape != (tiles, width):
        return f"features are {features.dtype} {list(features.shape)}, not float32 {[tiles, width]}"
    xy_l0 = None if placed is None else placed.xy_l0
    if xy_l0 is not None and (xy_l0.dtype != np.int64 or xy_l0.shape != (tiles, 2)):
        return f"coords are {xy_l0.dtype} {list(xy_l0.shape)}"
    bad_rows = ~np.isfinite(features).all(axis=1)
    if bad_rows.any():
        return f"features of tile {bad_rows.argmax()} are not finite"
    shares = {
        "tissue": magnification.tissue_coverage,
        "heuristic": magnification.heuristic_coverage,
    }
    for name, coverage in shares.items():
        if coverage is None:
            continue
        if coverage.dtype != np.float64 or coverage.shape != (tiles,):
            return f"{name} coverage is {coverage.dtype} {list(coverage.shape)}, not [{tiles}]"
        if not ((coverage >= 0) & (coverage <= 1)).all():  # NaN fails too
            return f"{name} coverage leaves [0, 1]"
    return ""
