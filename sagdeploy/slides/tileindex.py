"""Where in a TIFF the compressed tiles of its levels are, read with suspicion.

A few tags of each directory and nothing else, of classic and BigTIFF in both byte orders.
Every count is held against the size of the image before anything is allocated.
Reference: TIFF 6.0, its technical note 2 (JPEG), the BigTIFF layout of libtiff.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANES, TILE_WIDTH, TILE_HEIGHT, OFFSETS, LENGTHS = 277, 284, 322, 323, 324, 325
TABLES: Final = 347
TYPES: Final = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 13: "u4", 16: "u8", 18: "u8"}
"""Unsigned whole numbers, of which all these tags consist."""

MAX_DIRECTORIES = 64
MAX_TAGS = 512
MAX_TILES = 1 << 23
"""400,000 px squared in tiles of 240 px are 2.8 million."""

MAX_TILE_PX = 1 << 22
MAX_TABLES_BYTES = 1 << 16


class UnfitError(Exception):
    """Why pixels are OpenSlide's to decode; met within the package, and never shown."""


@dataclass(frozen=True, slots=True, eq=False)
class TileIndex:
    """The tiles of one level."""

    size: tuple[int, int]
    """(width, height) of the level, in its pixels."""

    tile_size: tuple[int, int]
    compression: int
    photometric: int
    tables: bytes
    """What the JPEG tiles share: an abbreviated stream, or nothing."""

    offsets: NDArray[Any]
    """Of each tile, row by row, unsigned whole numbers."""

    lengths: NDArray[Any]
    """Bytes of each tile; 0 where it is missing."""

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.size[0] // self.tile_size[0])

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.size[1] // self.tile_size[1])

    @property
    def has_all(self) -> bool:
        """Whether no tile is missing."""
        return bool(self.lengths.all())


class _Entry(NamedTuple):
    """Where the values of a tag are."""

    dtype: str
    values: int
    offset: int


def read_index(descriptor: int) -> tuple[TileIndex, ...]:
    """The tiled directories of 8-bit RGB in an open TIFF; UnfitError where it is damaged."""
    return tuple(
        _level(descriptor, tags)
        for tags in _directories(descriptor)
        if {TILE_WIDTH, TILE_HEIGHT, OFFSETS, LENGTHS} <= tags.keys()
        and _values(descriptor, tags, BITS, limit=3).tolist() == [8, 8, 8]
        and _value(descriptor, tags, SAMPLES) == 3
        and _value(descriptor, tags, PLANES, default=1) == 1
    )


def read_bytes(descriptor: int, offset: int, count: int) -> bytes:
    """Bytes of an open file, from any thread; UnfitError where it ends before."""
    try:
        data = os.pread(descriptor, count, offset)
    except (OSError, OverflowError) as error:
        raise UnfitError(f"{count} bytes at {offset}: {error}") from error
    if len(data) != count:
        raise UnfitError(f"the file ends within {count} bytes at {offset}")
    return data


def _directories(descriptor: int) -> Iterator[dict[int, _Entry]]:
    """Tags of each directory in the chain."""
    head = read_bytes(descriptor, 0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise UnfitError("not a TIFF")
    (version,) = struct.unpack_from(f"{order}H", head, 2)
    if version not in (42, 43):
        raise UnfitError(f"a TIFF of version {version}")
    word, counter = ("I", "H") if version == 42 else ("Q", "Q")
    entry = struct.Struct(f"{order}HH{word}")
    wide = struct.calcsize(f"{order}{word}")
    (here,) = struct.unpack_from(f"{order}{word}", head, wide)
    for _ in range(MAX_DIRECTORIES):
        counted = struct.calcsize(f"{order}{counter}")
        (count,) = struct.unpack(f"{order}{counter}", read_bytes(descriptor, here, counted))
        if not 0 < count <= MAX_TAGS:
            raise UnfitError(f"a directory of {count} tags")
        start, step = here + counted, entry.size + wide
        data = read_bytes(descriptor, start, count * step + wide)
        tags = {}
        for at in range(0, count * step, step):
            number, kind, values = entry.unpack_from(data, at)
            dtype = TYPES.get(kind)
            if dtype is None:
                continue
            within = values * int(dtype[1]) <= wide
            (far,) = struct.unpack_from(f"{order}{word}", data, at + entry.size)
            tags[number] = _Entry(order + dtype, values, start + at + entry.size if within else far)
        yield tags
        (here,) = struct.unpack_from(f"{order}{word}", data, count * step)
        if not here:
            return
    raise UnfitError(f"more than {MAX_DIRECTORIES} directories")


def _level(descriptor: int, tags: dict[int, _Entry]) -> TileIndex:
    width, height, across, down = (
        _value(descriptor, tags, tag) for tag in (WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT)
    )
    if not (min(width, height, across, down) > 0 and across * down <= MAX_TILE_PX):
        raise UnfitError(f"{width} x {height} px in tiles of {across} x {down}")
    tiles = -(-width // across) * -(-height // down)
    if tiles > MAX_TILES:
        raise UnfitError(f"{tiles} tiles")
    offsets, lengths = (_values(descriptor, tags, tag, limit=tiles) for tag in (OFFSETS, LENGTHS))
    if not len(offsets) == len(lengths) == tiles:
        raise UnfitError(f"{len(offsets)} offsets and {len(lengths)} lengths of {tiles} tiles")
    return TileIndex(
        size=(width, height),
        tile_size=(across, down),
        compression=_value(descriptor, tags, COMPRESSION),
        photometric=_value(descriptor, tags, PHOTOMETRIC),
        tables=_values(descriptor, tags, TABLES, limit=MAX_TABLES_BYTES).tobytes(),
        offsets=offsets,
        lengths=lengths,
    )


def _value(descriptor: int, tags: dict[int, _Entry], tag: int, default: int = 0) -> int:
    values = _values(descriptor, tags, tag, limit=1)
    return int(values[0]) if len(values) else default


def _values(descriptor: int, tags: dict[int, _Entry], tag: int, *, limit: int) -> NDArray[Any]:
    """Values of a tag; none where it is absent, UnfitError where there are more than `limit`."""
    entry = tags.get(tag)
    if entry is None:
        return np.empty(0, np.uint8)
    if entry.values > limit:
        raise UnfitError(f"tag {tag} has {entry.values} values, more than {limit}")
    data = read_bytes(descriptor, entry.offset, entry.values * int(entry.dtype[2]))
    return np.frombuffer(data, entry.dtype)
