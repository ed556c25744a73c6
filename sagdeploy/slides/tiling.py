"""Where the tiles of a slide lie: tile plans, in exact physical size.

Arithmetic only: no pixel is read here. `_l0` marks level-0 pixels, the frame in
which OpenSlide takes locations; `_px` marks pixels as the model sees them.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import ConfigError, NotAnalysableError

MAX_TILES = 1_000_000
"""Of a slide, background included; a whole glass at 40x has 630,000 of 224 px."""

COARSEST = 1.5
"""How many times coarser than the tiles a slide may be: it would have to be enlarged so much."""


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

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "grid"):
            raise ConfigError(f"a tile plan is dense or grid, got {self.kind!r}")
        if not self.mpp or not all(0 < mpp < math.inf for mpp in self.mpp):
            raise ConfigError(f"mpp of the tiles must be positive numbers, got {self.mpp}")
        if self.tile_px < 1:
            raise ConfigError(f"tile_px must be at least 1, got {self.tile_px}")
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"min_tissue must be a share from 0 to 1, got {self.min_tissue}")
        wanted = len(self.mpp) if self.kind == "grid" else 0
        if len(self.grid) != wanted or any(crops < 1 for crops in self.grid):
            raise ConfigError(
                f"a {self.kind} plan of {len(self.mpp)} magnifications takes {wanted} numbers of "
                f"crops a side, got {self.grid}",
                hint="a grid plan has one for each mpp, a dense plan has none",
            )


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


def plan_tiles(
    plan: TilePlan,
    *,
    size_l0: tuple[int, int],
    bounds_l0: tuple[int, int, int, int],
    slide_mpp: float,
    mask: NDArray[np.bool_],
    name: str,
) -> tuple[Tiles, ...]:
    """The tiles of a slide, one Tiles a magnification of the plan, row by row.

    bounds_l0: (x, y, width, height) of what was scanned
    mask:      (h, w) the tissue of the whole slide, at any resolution
    name:      of the slide, for the NotAnalysableError of one too coarse, too large for such small
        tiles, or without tissue
    """
    finest = min(plan.mpp)
    if slide_mpp > COARSEST * finest:
        raise NotAnalysableError(
            f"{name}: scanned at {slide_mpp:g} microns per pixel, too coarse for tiles of "
            f"{finest:g}",
            hint="scan it at a higher magnification, or use a model made for this one",
        )
    scales = [_decimal(mpp) / _decimal(slide_mpp) for mpp in plan.mpp]
    side_l0 = plan.tile_px * float(min(scales))
    if plan.kind == "dense" and size_l0[0] * size_l0[1] / side_l0**2 > MAX_TILES:
        raise NotAnalysableError(
            f"{name}: more than {MAX_TILES:,} tiles of {plan.tile_px} px at {finest:g} microns",
            hint="take larger tiles, or force the right --mpp",
        )
    if plan.kind == "grid":
        box_l0 = bounding_box_l0(mask, size_l0, name)
        return tuple(
            _grid(box_l0, crops, mpp, scale)
            for crops, mpp, scale in zip(plan.grid, plan.mpp, scales, strict=True)
        )
    return tuple(
        _dense(plan, mpp, scale, size_l0, bounds_l0, mask, name)
        for mpp, scale in zip(plan.mpp, scales, strict=True)
    )


def coverage(
    mask: NDArray[np.bool_],
    xy_l0: NDArray[np.int64],
    tile_size_l0: tuple[int, int],
    size_l0: tuple[int, int],
) -> NDArray[np.float64]:
    """Share of each tile that a mask covers: M of the paper's Eq. 3.

    A tile counts every mask pixel that it touches; what lies beyond the slide is not covered.

    mask:    (h, w) over the whole slide, at any resolution
    xy_l0:   (N, 2) top left of each tile
    size_l0: (width, height) of the slide
    returns: (N,) in [0, 1]
    """
    size = np.array(mask.shape[::-1])
    start = xy_l0 * size // size_l0  # whole numbers: floats round some edges off by one
    stop = -(-(xy_l0 + tile_size_l0) * size // size_l0)
    x0, y0 = np.clip(start, 0, size).T
    x1, y1 = np.clip(stop, 0, size).T
    summed = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = summed[y1, x1] - summed[y0, x1] - summed[y1, x0] + summed[y0, x0]
    share: NDArray[np.float64] = inside / (stop - start).prod(axis=1)
    return share


def bounding_box_l0(
    mask: NDArray[np.bool_], size_l0: tuple[int, int], name: str
) -> tuple[int, int, int, int]:
    """(x, y, width, height) that holds all a mask covers; NotAnalysableError if that is nothing."""
    if not mask.any():
        raise NotAnalysableError(f"{name}: no tissue")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    (width, height), (h, w) = size_l0, mask.shape
    x, y = int(columns[0]) * width // w, int(rows[0]) * height // h
    right, bottom = -(-int(columns[-1] + 1) * width // w), -(-int(rows[-1] + 1) * height // h)
    return x, y, right - x, bottom - y


def _dense(
    plan: TilePlan,
    mpp: float,
    scale: Fraction,
    size_l0: tuple[int, int],
    bounds_l0: tuple[int, int, int, int],
    mask: NDArray[np.bool_],
    name: str,
) -> Tiles:
    """Whole square tiles side by side in the bounds, where there is enough tissue."""
    side_l0 = max(1, round(plan.tile_px * scale))
    left, top, width, height = bounds_l0
    x = np.arange(left, left + width - side_l0 + 1, side_l0)
    y = np.arange(top, top + height - side_l0 + 1, side_l0)
    xy_l0 = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    kept = coverage(mask, xy_l0, (side_l0, side_l0), size_l0) >= plan.min_tissue
    if not kept.any():
        raise NotAnalysableError(
            f"{name}: none of {len(xy_l0)} tiles at {mpp:g} microns per pixel has "
            f"{plan.min_tissue:.0%} of tissue",
            hint="look at the slide: the tissue may be too small, too pale or under pen marks",
        )
    return Tiles(xy_l0[kept], (side_l0, side_l0), (plan.tile_px, plan.tile_px), mpp)


def _grid(box_l0: tuple[int, int, int, int], crops: int, mpp: float, scale: Fraction) -> Tiles:
    """crops x crops that cover a box from its top left; the last ones may reach beyond it."""
    left, top, *box = box_l0
    width_px, height_px = (math.ceil(side / scale / crops) for side in box)
    # rounding alone could leave a strip of the box uncovered
    width_l0 = max(round(width_px * scale), -(-box[0] // crops))
    height_l0 = max(round(height_px * scale), -(-box[1] // crops))
    x = left + width_l0 * np.arange(crops)
    y = top + height_l0 * np.arange(crops)
    xy_l0 = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Tiles(xy_l0, (width_l0, height_l0), (width_px, height_px), mpp)


def _decimal(value: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth, so that sizes do not depend on float noise."""
    return Fraction(repr(float(value)))
