"""Where the tiles of a slide lie: tile plans, in exact physical size.

Arithmetic only: no pixel is read here. `_l0` marks level-0 pixels, the frame in
which OpenSlide takes locations; `_px` marks pixels as the model sees them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How slides are cut into tiles, whatever slide it is."""

    kind: Literal["dense", "grid"] = "dense"
    """`dense`: square tiles side by side where there is tissue. `grid`: n x n crops over the
    tissue's bounding box, background kept."""

    mpp: tuple[float, ...] = (0.5,)
    """Microns per pixel of the tiles, one a magnification; 0.5 is about 20x."""

    tile_px: int = 224
    """Side of a dense tile, in pixels."""

    min_tissue: float = 0.1
    """Dense tiles with a smaller share of tissue than this are left out; 0 keeps all."""

    grid: tuple[int, ...] = ()
    """Crops a side of a grid, one a magnification."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """The tiles of one slide at one magnification."""

    xy_l0: NDArray[np.int64]
    """(N, 2) x, y of each tile's top left, level 0."""

    size_l0: tuple[int, int]
    """(width, height) of every tile, level-0 pixels."""

    size_px: tuple[int, int]
    """(width, height) of every tile as the model sees it."""

    mpp: float
    """Microns per pixel as the model sees it."""

    def __len__(self) -> int:
        return len(self.xy_l0)
