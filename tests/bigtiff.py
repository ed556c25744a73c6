"""Slides for tests, made tile by tile as BigTIFF, and ways to spoil them."""

import io
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.slides import tiff
from sagdeploy.slides.tiff import FORMATS, TILE_PX
from sagdeploy.slides.tiff import Directory as Level

WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT, OFFSETS, LENGTHS = 256, 257, 322, 323, 324, 325
DESCRIPTION, X_RESOLUTION, Y_RESOLUTION, UNIT = 270, 282, 283, 296
APERIO = (
    "Aperio Image Library v11.2.1\r\n{size} (256x256) JPEG/RGB Q=80|AppMag = 20|MPP = {mpp}{more}"
)

Pixels = NDArray[np.uint8]


def write_svs(
    path: Path, pixels: Pixels, *, mpp: object = 0.5, more: str = "", copies: int = 1
) -> Path:
    """A slide of two levels that OpenSlide takes for an Aperio scanner's.

    more:   further properties, as `|Name = value`
    copies: how often the smaller level is named
    """
    small = np.asarray(Image.fromarray(pixels).reduce(4))
    height, width = pixels.shape[:2]
    text = APERIO.format(size=f"{width}x{height}", mpp=mpp, more=more)
    with path.open("wb") as file:
        tiff.start(file)
        levels = [
            _write(file, level, reduced) for level, reduced in ((pixels, False), (small, True))
        ]
        named = [levels[0], *levels[1:] * copies]
        tiff.finish(file, [replace(level, description=text) for level in named])
    return path


def write_flat(path: Path, tile: Pixels, *, size_px: tuple[int, int], mpp: float = 0.5) -> Path:
    """A slide of one level, however large, of which every tile is the same."""
    data = next(jpegs(tile))
    count = -(-size_px[0] // TILE_PX) * -(-size_px[1] // TILE_PX)
    with path.open("wb") as file:
        tiff.start(file)
        offset = file.tell()
        file.write(data)
        level = Level(size_px, mpp, False, (offset,) * count, (len(data),) * count)
        tiff.finish(file, [level])
    return path


def jpegs(pixels: Pixels) -> Iterator[bytes]:
    """The JPEG tiles of a picture, row by row."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0)), mode="edge")
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            buffer = io.BytesIO()
            tile = Image.fromarray(padded[y : y + TILE_PX, x : x + TILE_PX])
            tile.save(buffer, "JPEG", quality=80, subsampling="4:2:0")
            yield buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory."""

    directory: int
    number: int
    kind: int
    count: int
    entry: int
    """Where in the file it begins."""

    place: int
    """Where in the file its values begin."""


def tags(data: bytes) -> Iterator[Tag]:
    """The entries of all directories of a BigTIFF."""
    (start,) = struct.unpack_from("<Q", data, 8)
    directory = 0
    while start:
        (entries,) = struct.unpack_from("<Q", data, start)
        for entry in range(start + 8, start + 8 + 20 * entries, 20):
            number, kind, count = struct.unpack_from("<HHQ", data, entry)
            size = struct.calcsize(f"<{FORMATS[kind]}") * count
            place = entry + 12 if size <= 8 else struct.unpack_from("<Q", data, entry + 12)[0]
            yield Tag(directory, number, kind, count, entry, place)
        (start,) = struct.unpack_from("<Q", data, start + 8 + 20 * entries)
        directory += 1


def with_tag(data: bytes, number: int, *values: int, directory: int = 0) -> bytes:
    """The file with other values of a tag, the last of them for all the rest."""
    tag = next(tag for tag in tags(data) if (tag.directory, tag.number) == (directory, number))
    letters = FORMATS[tag.kind] * tag.count
    filled = [*values, *[values[-1]] * (len(letters) - len(values))][: len(letters)]
    spoilt = bytearray(data)
    struct.pack_into(f"<{letters}", spoilt, tag.place, *filled)
    return bytes(spoilt)


def without_tiles(data: bytes, numbers: Collection[int]) -> bytes:
    """The file with these tiles of level 0 of no length, as if they were never scanned."""
    tag = next(tag for tag in tags(data) if (tag.directory, tag.number) == (0, LENGTHS))
    lengths = struct.unpack_from(f"<{FORMATS[tag.kind] * tag.count}", data, tag.place)
    kept = [0 if number in numbers else length for number, length in enumerate(lengths)]
    return with_tag(data, LENGTHS, *kept)


def without_tag(data: bytes, number: int) -> bytes:
    """The file with a tag of all directories made one that nobody knows."""
    spoilt = bytearray(data)
    for tag in tags(data):
        if tag.number == number:
            struct.pack_into("<H", spoilt, tag.entry, 65000)
    return bytes(spoilt)


def _write(file: io.BufferedWriter, pixels: Pixels, reduced: bool) -> Level:
    height, width = pixels.shape[:2]
    return tiff.write_tiles(
        file, jpegs(pixels), size_px=(width, height), mpp=0.5, is_reduced=reduced
    )
