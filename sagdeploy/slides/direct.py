"""Pixels of a tiled TIFF without OpenSlide: each compressed tile is decoded once, and cut.

OpenSlide spends more time on composing a region than on decoding it. Where a slide is a plain
grid of tiles there is nothing to compose, and the pixels are the same: bit for bit, which
`Slide` checks on every file before it trusts this module. What is not as plain raises UnfitError.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.slides import jpeg, jpeg2000
from sagdeploy.slides.decoded import DecodedTiles, Pixels
from sagdeploy.slides.library import RGB, Level
from sagdeploy.slides.tileindex import TileIndex, UnfitError, read_bytes, read_index

VENDORS: Final = ("aperio", "generic-tiff")
"""Whose tiles lie side by side, all of them in one file."""

JPEG, JPEG_2000_RGB = 7, 33005
"""TIFF's numbers of the compressions; the second is Aperio's own."""

KEPT_BYTES: Final = 32 * 2**20
"""Decoded tiles kept: five rows of JPEG tiles in a stripe 8192 px wide, so that tiles read row by
row there, even by a dozen threads, decode each once."""

SLACK_BYTES: Final = 1 << 16
"""No JPEG tile is longer than its pixels by more than this."""


class DirectReader:
    """The levels of a slide that can be read without OpenSlide. Threads may read at once."""

    def __init__(self, path: Path, vendor: str, levels: Sequence[Level], background: RGB) -> None:
        if vendor not in VENDORS:
            raise UnfitError(f"a slide of vendor {vendor}")
        self._background = np.array(background, np.uint8)
        self._decoded: DecodedTiles[tuple[int, int, int, int]] = DecodedTiles(KEPT_BYTES)
        self._scratch = _Scratch()
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
        return factor == 1 or not any(
            side % factor for side in (*self._levels[level].tile_size, *xy)
        )

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
        columns = _spans(x, width, wide, index.across)
        for row, down, tile_down in _spans(y, height, high, index.down):
            for column, along, tile_along in columns:
                self._decoded.copy(
                    (level, row, column, factor),
                    (tile_down, tile_along),
                    out[down, along],
                    shape=(high, wide, 3),
                    decode=self._decode_tile,
                )

    def _decode_tile(self, key: tuple[int, int, int, int], out: NDArray[np.uint8]) -> None:
        """Fill `out` with the tile of a level, row and column, averaged by a factor."""
        level, row, column, factor = key
        if factor == 1:
            self._decode_whole(level, row, column, out)
            return
        index = self._levels[level]
        width, height = index.tile_size
        # libjpeg-turbo is faster with a fourth byte where it converts colours, else without.
        channels = 4 if index.photometric == jpeg.YCBCR else 3
        pixels, spare = self._scratch.of((2, height, width, channels))
        self._decode_whole(level, row, column, pixels)
        if factor == 2:
            _halve(pixels, out, sums=spare.ravel().view(np.uint16))
        else:
            _average(pixels, out, factor)

    def _decode_whole(self, level: int, row: int, column: int, out: Pixels) -> None:
        """Fill `out`, RGB or RGBX, with a tile; where it reaches beyond the slide is background."""
        index = self._levels[level]
        width, height = index.tile_size
        number = row * index.across + column
        length = int(index.lengths[number])
        if not 0 < length <= 3 * width * height + SLACK_BYTES:
            raise UnfitError(f"tile {number} of {length} bytes")
        data = read_bytes(self._file.fileno(), int(index.offsets[number]), length)
        self._decode[level](data, out)
        if row == index.down - 1:
            out[index.size[1] - row * height :, :, :3] = self._background
        if column == index.across - 1:
            out[:, index.size[0] - column * width :, :3] = self._background


class _Scratch(threading.local):
    """Memory that a thread uses again and again: new memory would cost half of decoding."""

    memory = np.empty(0, np.uint8)

    def of(self, shape: tuple[int, ...]) -> Pixels:
        """An array with anything in it; the thread's next is the same memory."""
        if self.memory.shape != shape:
            self.memory = np.empty(shape, np.uint8)
        return self.memory


def _average(pixels: Pixels, out: Pixels, factor: int) -> None:
    """Fill `out`, RGB, with Pillow's averages over factor x factor pixels, RGB or RGBX."""
    height, width, channels = pixels.shape
    mode = "RGBX" if channels == 4 else "RGB"
    image = Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)
    averages = image.reduce(factor).tobytes("raw", "RGB")
    out[:] = np.frombuffer(averages, np.uint8).reshape(out.shape)


def _halve(pixels: Pixels, out: Pixels, *, sums: NDArray[np.uint16]) -> None:
    """The same for a factor of 2, in half the time.

    sums: as many as `pixels` are halved in height, with anything in it
    """
    height, width, channels = pixels.shape
    rows = pixels.reshape(height // 2, 2, width * channels)
    np.add(rows[:, 0], rows[:, 1], out=sums.reshape(height // 2, -1), dtype=np.uint16)
    sums[:-channels] += sums[channels:]  # to each pixel its right neighbour
    sums += 2
    sums >>= 2
    pairs = sums.reshape(height // 2, width // 2, 2 * channels)
    for channel in range(3):  # one by one: numpy is slow where its last axis is short
        out[:, :, channel] = pairs[:, :, channel]


class _Span(NamedTuple):
    """The part of a stretch that lies in one tile."""

    tile: int
    there: slice
    """In the stretch."""

    within: slice
    """In the tile."""


@lru_cache(maxsize=512)  # the same for all tiles of a row, or of a column
def _spans(start: int, length: int, side: int, count: int) -> tuple[_Span, ...]:
    """Of `count` tiles in a line those that a stretch crosses."""
    end = start + length
    spans = []
    for number in range(max(start, 0) // side, min(-(-end // side), count)):
        first = number * side
        inner, outer = max(start, first), min(end, first + side)
        there, within = slice(inner - start, outer - start), slice(inner - first, outer - first)
        spans.append(_Span(number, there, within))
    return tuple(spans)


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
