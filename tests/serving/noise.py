"""Tiles without a slide: what stands in for one where its pixels do not matter."""

import numpy as np
from numpy.typing import NDArray

from sagdeploy.pipeline.stream import TileReader
from sagdeploy.slides.tiling import Tiles
from tests.serving.engine_contract import TILE_PX


class Noise(TileReader):
    """A reader of tiles that are all different, and the same each time."""

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Noise, brighter to the right as `xy_l0` says."""
        width, height = size_px
        noise = np.random.default_rng(xy_l0).integers(0, 200, (height, width, 3), np.uint8)
        return noise + np.uint8(xy_l0[0] % 56)


def tiles_of(count: int, tile_px: int = TILE_PX) -> Tiles:
    """`count` tiles, no two at the same place."""
    corners = np.stack([np.arange(count) * 7 % 1009, np.arange(count)], axis=1).astype(np.int64)
    return Tiles(corners, (tile_px, tile_px), (tile_px, tile_px), 0.5)


def pixels_of(tiles: Tiles) -> NDArray[np.uint8]:
    """(N, H, W, 3): what Noise reads."""
    corners = tiles.xy_l0.tolist()
    return np.stack([Noise().read((x, y), tiles.size_l0, tiles.size_px) for x, y in corners])
