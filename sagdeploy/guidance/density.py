"""How densely cells lie on the tiles: what a map would show that looks at nuclei alone."""

import numpy as np
import shapely
from numpy.typing import NDArray

from sagdeploy.slides.tiling import Tiles


def cells_per_tile(xy_l0: NDArray[np.float64], tiles: Tiles) -> NDArray[np.float64]:
    """How many of the cells lie on each tile, (N,).

    xy_l0: (M, 2) centres of cells
    A cell on the edge of two tiles counts in both.
    """
    corners = np.concatenate([tiles.xy_l0, tiles.xy_l0 + tiles.size_l0], axis=1)  # (N, 4)
    boxes = shapely.box(*corners.T.astype(np.float64))
    on_tile, _ = shapely.STRtree(shapely.points(xy_l0)).query(boxes, predicate="intersects")
    return np.bincount(on_tile, minlength=len(tiles)).astype(np.float64)
