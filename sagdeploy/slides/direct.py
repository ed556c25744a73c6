"""Pixels of a tiled TIFF without OpenSlide: each compressed tile is decoded once, and cut.

OpenSlide spends more time on composing a region than on decoding it. Where a slide is a plain
grid of tiles there is nothing to compose, and the pixels are the same: bit for bit, which
`Slide` checks on every file before it trusts this module. What is not as plain raises UnfitError.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.slides import jpeg, jpeg2000
from sagdeploy.slides.decoded import DecodedTiles
from sagdeploy.slides.library import RGB, Level
from sagdeploy.slides.tileindex import TileIndex, UnfitError, read_bytes, read_index

VENDORS: Final = ("aperio", "generic-tiff")
"""Whose tiles lie side by side, all of them in one file."""

JPEG, JPEG_2000_RGB = 7, 33005
"""TIFF's numbers of the compressions; the second is Aperio's own."""

KEPT_BYTES: Final = 96 * 2**20
"""Decoded tiles kept: as RGB, what OpenSlide keeps as ARGB in 128 MiB. Two rows of JPEG tiles on
a slide 60,000 px wide, so that tiles read row by row decode each once."""

SLACK_BYTES: Final = 1 << 16
"""No JPEG tile is longer than its pixels by more than this."""


class DirectReader:
    """The levels of a slide that can be read without OpenSlide. Threads may read at once."""

    def __init__(self, path: Path, vendor: str, levels: Sequence[Level], background: RGB) -> None:
        if vendor not in VENDORS:
            raise UnfitError(f"a slide of vendor {vendor}")
        self._background = np.array(background, np.uint8)
        self._decoded: DecodedTiles[tuple[int, int, int, int]] = DecodedTiles(KEPT_BYTES)
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise UnfitError(str(error)) from error
        try:
            indices = read_index(self._file.fileno())
            self._levels = dict(_fitting(indices, levels, lost_spreads=vendor == "aperio"))
            self._decode = {level: _decoder(index) for level, index in self._levels.items()}
        except UnfitError:
            self.close()
            raise

    @property
    def levels(self) -> tuple[int, ...]:
        """Those that it reads."""
        return tuple(self._levels)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def samples(self, level: int, count: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """(x, y) and (width, height), in level pixels, of the tiles most worth a comparison.

        JPEG tiles of tissue are longer than those of glass: the longest, others that are longer
        than most, and the last, which the edge of the slide may cut.
        """
        index = self._levels[level]
        present = np.flatnonzero(index.lengths)
        if not len(present):  # nothing was scanned
            return
        order = present[np.argsort(index.lengths[present])]
        picked = order[np.linspace(len(order) - 1, len(order) // 2, count - 1).astype(int)]
        width, height = index.tile_size
        for tile in dict.fromkeys([*picked.tolist(), *present[-1:].tolist()]):
            row, column = divmod(tile, index.across)
            yield (column * width, row * height), index.tile_size

    def can_average(self, level: int, xy: tuple[int, int], factor: int) -> bool:
        """Whether no average over factor x factor pixels, counted from `xy`, crosses a tile."""
        return not any(side % factor for side in (*self._levels[level].tile_size, *xy))

    def read(
        self, level: int, xy: tuple[int, int], out: NDArray[np.uint8], *, factor: int = 1
    ) -> None:
        """Fill `out`, uint8 RGB (h, w, 3), with a region of a level; the background lies beyond.

        xy:     top left, in level pixels
        factor: each pixel of `out` is Pillow's average over factor x factor level pixels, where
                `can_average` allows it
        Raises UnfitError, with `out` in any state, where a tile is missing or damaged.
        """
        index = self._levels[level]
        x, y = xy[0] // factor, xy[1] // factor  # from here on in averaged pixels
        wide, high = index.tile_size[0] // factor, index.tile_size[1] // factor
        height, width = out.shape[:2]
        right, bottom = index.across * wide, index.down * high
        if x < 0 or y < 0 or x + width > right or y + height > bottom:
            out[:] = self._background
        columns = list(_spans(x, width, wide, index.across))
        for row, down, tile_down in _spans(y, height, high, index.down):
            for column, along, tile_along in columns:
                tile = self._decoded.get(
                    (level, row, column, factor), (high, wide, 3), self._decode_tile
                )
                out[down, along] = tile[tile_down, tile_along]

    def _decode_tile(self, key: tuple[int, int, int, int], out: NDArray[np.uint8]) -> None:
        """Fill `out` with the tile of a level, row and column, averaged by a factor."""
        level, row, column, factor = key
        index = self._levels[level]
        width, height = index.tile_size
        # With a fourth byte Pillow takes the pixels as they are, and libjpeg-turbo is faster.
        pixels = out if factor == 1 else np.empty((height, width, 4), np.uint8)
        number = row * index.across + column
        length = int(index.lengths[number])
        if not 0 < length <= 3 * width * height + SLACK_BYTES:
            raise UnfitError(f"tile {number} of {length} bytes")
        data = read_bytes(self._file.fileno(), int(index.offsets[number]), length)
        self._decode[level](data, pixels)
        pixels[index.size[1] - row * height :, :, :3] = self._background
        pixels[:, index.size[0] - column * width :, :3] = self._background
        if factor > 1:
            image = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
            averages = image.reduce(factor).tobytes("raw", "RGB")
            out[:] = np.frombuffer(averages, np.uint8).reshape(out.shape)


def _spans(start: int, length: int, side: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Of `count` tiles in a line those that a stretch crosses: number, part of it, of the tile."""
    end = start + length
    for number in range(max(start, 0) // side, min(-(-end // side), count)):
        first = number * side
        inner, outer = max(start, first), min(end, first + side)
        yield number, slice(inner - start, outer - start), slice(inner - first, outer - first)


def _decoder(index: TileIndex) -> Callable[[bytes, NDArray[np.uint8]], None]:
    """What makes pixels of a tile's bytes."""
    if index.compression == JPEG_2000_RGB:
        return jpeg2000.decode
    return partial(jpeg.decode, jpeg.shared_start(index.photometric, index.tables))


def _fitting(
    indices: Sequence[TileIndex], levels: Sequence[Level], *, lost_spreads: bool
) -> Iterator[tuple[int, TileIndex]]:
    """The directory of each level that can be read directly.

    Matched by size, and by it alone. Where a level's downsample is no whole number OpenSlide
    interpolates. `lost_spreads`: it paints a place without data anew in all coarser levels.
    """
    for number, level in enumerate(levels):
        matching = [index for index in indices if index.size == level.size]
        if len(matching) != 1:
            if lost_spreads:
                return
            continue
        if matching[0].compression in (JPEG, JPEG_2000_RGB) and level.downsample.is_integer():
            yield number, matching[0]
        if lost_spreads and not matching[0].has_all:
            return
