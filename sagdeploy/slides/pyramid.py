"""Write a slide as a pyramidal TIFF of JPEG tiles, band by band.

Only one band of level 0, and the tiles of the smaller levels as JPEG, are ever in memory.
OpenSlide reads the result as `generic-tiff`, with its microns per pixel.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.files import write_whole
from sagdeploy.slides import tiff
from sagdeploy.slides.tiff import TILE_PX

Pixels = NDArray[np.uint8]
Region = Callable[[tuple[int, int], tuple[int, int]], Pixels]

LEVELS: Final = 3
SHRINK: Final = 4
"""From one level to the next."""

QUALITY: Final = 80
PIECE_PX: Final = 1024
"""Width of what is painted at once."""


def write_pyramid(path: Path, region: Region, *, size_l0: tuple[int, int], mpp: float) -> None:
    """Write a slide, whole or not at all; the same pixels give the same bytes.

    region: RGB (height, width, 3) of a place (x, y) and size (width, height) at level 0
    """
    smaller = [_Level() for _ in range(LEVELS - 1)]
    levels: list[Iterable[bytes]] = [_top(region, size_l0, smaller)]
    levels += [level.tiles for level in smaller]  # filled while level 0 passes
    with write_whole(path) as partial, partial.open("wb") as file:
        tiff.start(file)
        directories = [
            tiff.write_tiles(
                file,
                tiles,
                size_px=(-(-size_l0[0] // scale), -(-size_l0[1] // scale)),
                mpp=mpp * scale,
                is_reduced=scale > 1,
            )
            for tiles, scale in zip(levels, (SHRINK**n for n in range(LEVELS)), strict=True)
        ]
        tiff.finish(file, directories)


class _Level:
    """A smaller level as it grows: rows of pixels come in, JPEG tiles are kept."""

    def __init__(self) -> None:
        self.tiles: list[bytes] = []
        self._rows: list[Pixels] = []

    def add(self, rows: Pixels, *, last: bool) -> Iterator[Pixels]:
        """Take further rows; yields each band that has become as high as a tile."""
        self._rows.append(rows)
        if last or sum(map(len, self._rows)) == TILE_PX:
            band = np.concatenate(self._rows)
            self._rows.clear()
            self.tiles.extend(_encode(band))
            yield band


def _top(region: Region, size_l0: tuple[int, int], smaller: list[_Level]) -> Iterator[bytes]:
    """Tiles of level 0, row by row; the smaller levels grow by the way."""
    width, height = size_l0
    for y in range(0, height, TILE_PX):
        rows = min(TILE_PX, height - y)
        pieces = [
            region((x, y), (min(PIECE_PX, width - x), rows)) for x in range(0, width, PIECE_PX)
        ]
        band = np.concatenate(pieces, axis=1)
        yield from _encode(band)
        _pass_down(band, smaller, last=y + rows == height)


def _pass_down(band: Pixels, levels: list[_Level], *, last: bool) -> None:
    if levels:
        for complete in levels[0].add(_shrunk(band), last=last):
            _pass_down(complete, levels[1:], last=last)


def _shrunk(band: Pixels) -> Pixels:
    """Means of SHRINK x SHRINK pixels; at the right and lower edge, of as many as there are."""
    return np.asarray(Image.fromarray(band).reduce(SHRINK))


def _encode(band: Pixels) -> Iterator[bytes]:
    """JPEG tiles of a band, which is filled up at the right and lower edge of the slide."""
    bottom, right = -band.shape[0] % TILE_PX, -band.shape[1] % TILE_PX
    band = np.pad(band, ((0, bottom), (0, right), (0, 0)), mode="edge")
    for x in range(0, band.shape[1], TILE_PX):
        buffer = io.BytesIO()
        tile = Image.fromarray(band[:, x : x + TILE_PX])
        tile.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
        yield buffer.getvalue()
