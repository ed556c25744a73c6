"""Guidance weights of tiles: the paper's Eq. 3, with exact areas."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon

from sagdeploy.guidance.annotations import polygons_of
from sagdeploy.slides.tiling import Tiles

FEW_TILES = 8
"""Tiles that are clipped one by one; more are split first."""


def area_ratios(regions: MultiPolygon, tiles: Tiles) -> NDArray[np.float64]:
    """Share of each tile's area that regions cover: M of Eq. 3, (N,) in [0, 1].

    Exact to rounding, where the paper's public code counts pixels of a mask at 1/16.
    """
    corners = np.concatenate([tiles.xy_l0, tiles.xy_l0 + tiles.size_l0], axis=1)  # (N, 4)
    boxes = shapely.box(*corners.T.astype(np.float64))
    width, height = tiles.size_l0
    ratios: NDArray[np.float64] = _areas(regions, boxes) / (width * height)
    return np.clip(ratios, 0, 1)


def guidance_weights(coverage: NDArray[np.float64]) -> NDArray[np.float32]:
    """Coverage normalised over the tiles: W of Eq. 3, (N,) float32.

    Sums to 1, or is all 0 where nothing is covered: no guidance, where the paper's public
    code divides zero by zero.
    """
    total = coverage.sum(dtype=np.float64)
    if total == 0:
        return np.zeros(len(coverage), np.float32)
    weights: NDArray[np.float32] = (coverage / total).astype(np.float32)
    return weights


def _areas(region: shapely.Geometry, boxes: NDArray[np.object_]) -> NDArray[np.float64]:
    """Area of `region` in each box.

    The boxes are halved along their longer extent, and the region is clipped to each half:
    its vertices are then cut a few times each and not once a tile.
    """
    if len(boxes) == 0 or region.is_empty:
        return np.zeros(len(boxes))
    bounds = shapely.box(*shapely.total_bounds(boxes))
    clipped = MultiPolygon(polygons_of(shapely.intersection(region, bounds)))
    if len(boxes) <= FEW_TILES:
        inside: NDArray[np.float64] = shapely.area(shapely.intersection(clipped, boxes))
        return inside
    left, top, right, bottom = bounds.bounds
    along = 0 if right - left > bottom - top else 1
    order = np.argsort(shapely.bounds(boxes)[:, along], kind="stable")
    areas = np.empty(len(boxes))
    for half in np.array_split(order, 2):
        areas[half] = _areas(clipped, boxes[half])
    return areas
