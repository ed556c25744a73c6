import numpy as np

from sagdeploy.guidance.density import cells_per_tile
from sagdeploy.slides.tiling import Tiles

TILES = Tiles(
    xy_l0=np.array([[100, 50], [400, 50], [100, 250]]),
    size_l0=(300, 200),
    size_px=(30, 20),
    mpp=2.0,
)


def test_each_cell_counts_where_it_lies() -> None:
    cells = np.array([[150.0, 60], [399, 60], [401, 249], [150, 251], [50, 60], [150, 451]])
    assert cells_per_tile(cells, TILES).tolist() == [2, 1, 1]


def test_without_cells_every_tile_has_none() -> None:
    assert cells_per_tile(np.zeros((0, 2)), TILES).tolist() == [0, 0, 0]
