"""A painted slide of any size, in seconds: one painted square, repeated.

Its compressed tiles lie in the file once, and every directory entry points to them; who reads
the slide decodes as much as if they all differed.
"""

import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.slides import tiff
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from sagdeploy.slides.tiff import TILE_PX, Directory

SQUARE_PX = 4096
"""One tile at the smallest level, 16 x 16 at the largest."""

SCALES = (1, 4, 16)


def write_large(path: Path, size_l0: tuple[int, int], *, mpp: float = 0.5, seed: int = 3) -> None:
    """Write a pyramid of JPEG tiles, about a third of it tissue."""
    with path.open("wb") as file:
        tiff.start(file)
        directories = []
        for scale, square in zip(SCALES, _squares(mpp, seed), strict=True):
            side = SQUARE_PX // scale // TILE_PX
            places = [(file.tell(), file.write(data)) for data in _tiles(square)]
            size = (-(-size_l0[0] // scale), -(-size_l0[1] // scale))
            across, down = (-(-pixels // TILE_PX) for pixels in size)
            entries = [
                places[row % side * side + column % side]
                for row in range(down)
                for column in range(across)
            ]
            offsets, lengths = zip(*entries, strict=True)
            directories.append(Directory(size, mpp * scale, scale > 1, offsets, lengths))
        tiff.finish(file, directories)


def _squares(mpp: float, seed: int) -> Iterator[NDArray[np.uint8]]:
    """The painted square at each scale."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "square.tif"
        size = (SQUARE_PX, SQUARE_PX)
        paint_slide(path, SlideSpec(seed=seed, size_l0=size, mpp=mpp, grade=1.0, pen=None))
        with open_slide(path) as slide:
            for scale in SCALES:
                yield slide.read((0, 0), size, (SQUARE_PX // scale, SQUARE_PX // scale))


def _tiles(square: NDArray[np.uint8]) -> Iterator[bytes]:
    """The JPEG tiles of a square, row by row."""
    for y in range(0, len(square), TILE_PX):
        for x in range(0, len(square), TILE_PX):
            data = BytesIO()
            tile = Image.fromarray(square[y : y + TILE_PX, x : x + TILE_PX])
            tile.save(data, "JPEG", quality=80, subsampling="4:2:0")
            yield data.getvalue()
