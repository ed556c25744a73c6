"""A slide as a Deep Zoom pyramid: the square tiles in which web viewers ask for it.

Microsoft's layout, as OpenSlide's own generator has it: level 0 is one pixel, each next level
twice as large, the last one the slide's level 0. Pixels come from `Slide.read`, so that memory
is bounded for slides without a pyramid too, and colours are those that the model saw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.slide import Slide

TILE_PX = 512


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """The levels and tiles of a slide's pyramid."""

    size_l0: tuple[int, int]

    @property
    def levels(self) -> int:
        """How many there are."""
        return (max(self.size_l0) - 1).bit_length() + 1

    def size_px(self, level: int) -> tuple[int, int]:
        """(width, height) of a level."""
        width, height = self.size_l0
        scale = self._scale(level)
        return -(-width // scale), -(-height // scale)

    def holds(self, level: int, column: int, row: int) -> bool:
        """Whether there is such a tile."""
        if not 0 <= level < self.levels:
            return False
        width, height = self.size_px(level)
        return 0 <= column * TILE_PX < width and 0 <= row * TILE_PX < height

    def read(self, slide: Slide, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB (h, w, 3) of a tile that the pyramid holds; those at the far edges are smaller."""
        scale, (width, height) = self._scale(level), self.size_px(level)
        x, y = column * TILE_PX, row * TILE_PX
        size_px = (min(TILE_PX, width - x), min(TILE_PX, height - y))
        return slide.read((x * scale, y * scale), (size_px[0] * scale, size_px[1] * scale), size_px)

    def _scale(self, level: int) -> int:
        """Level-0 pixels a pixel of the level."""
        return 1 << (self.levels - 1 - level)
