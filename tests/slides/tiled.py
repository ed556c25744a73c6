"""Tiled TIFFs of any kind from tiles that are already compressed, and those tiles."""

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Encode = Callable[[Image.Image], bytes]

JPEG, JPEG_2000_RGB = 7, 33005
RGB, YCBCR = 2, 6
REDUCED = {254: (4, (1,))}
"""Says that a directory is a smaller level of the one before."""

FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}


@dataclass(frozen=True)
class Directory:
    """One level: its size, its tiles row by row, and what its tags say."""

    size: tuple[int, int]
    tile_px: int
    tiles: Sequence[bytes]
    compression: int = JPEG
    photometric: int = YCBCR
    description: str = ""
    tables: bytes = b""
    other: Mapping[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Type and values of further tags, or of these in another way."""


def jpeg(quality: int = 80, subsampling: str = "4:2:0", *, rgb: bool = False) -> Encode:
    """Encodes a tile; `rgb` keeps its colours as they are, and says so nowhere."""

    def encode(tile: Image.Image) -> bytes:
        buffer = io.BytesIO()
        tile.save(buffer, "JPEG", quality=quality, subsampling=subsampling, keep_rgb=rgb)
        return without_colours(buffer.getvalue()) if rgb else buffer.getvalue()

    return encode


def jpeg_2000(tile: Image.Image) -> bytes:
    """A bare codestream at a twentieth of its size, as Aperio's scanners write."""
    buffer = io.BytesIO()
    tile.save(
        buffer,
        "JPEG2000",
        no_jp2=True,
        irreversible=True,
        mct=1,
        quality_mode="rates",
        quality_layers=[20],
    )
    return buffer.getvalue()


def segments(stream: bytes) -> Iterator[bytes]:
    """Marker segments of a JPEG up to its scan, and all from there as the last."""
    at = 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        yield stream[at:end]
        at = end
    yield stream[at:]


def without_colours(stream: bytes) -> bytes:
    """A JPEG without JFIF's and Adobe's markers, its components numbered from 0 as Aperio's."""
    kept = [part for part in segments(stream) if part[1] not in (0xE0, 0xEE)]
    for number, part in enumerate(kept):
        if part[1] in (0xC0, 0xDA):
            data = bytearray(part)
            at, step = (10, 3) if part[1] == 0xC0 else (5, 2)
            data[at : at + 3 * step : step] = bytes(range(3))
            kept[number] = bytes(data)
    return b"\xff\xd8" + b"".join(kept)


def abbreviated(stream: bytes) -> tuple[bytes, bytes]:
    """A JPEG's tables, and the JPEG without them."""
    parts = list(segments(stream))
    tables = b"".join(part for part in parts if part[1] in (0xDB, 0xC4))
    rest = b"".join(part for part in parts if part[1] not in (0xDB, 0xC4))
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest


def cut(pixels: Pixels, tile_px: int, encode: Encode) -> list[bytes]:
    """Tiles of an image, row by row; those at the right and lower edge are filled up."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    return [
        encode(Image.fromarray(padded[y : y + tile_px, x : x + tile_px]))
        for y in range(0, padded.shape[0], tile_px)
        for x in range(0, padded.shape[1], tile_px)
    ]


def write_tiled(
    path: Path, directories: Sequence[Directory], *, order: str = "<", big: bool = False
) -> Path:
    """A TIFF of these levels; `order` is that of its bytes, `big` makes it a BigTIFF."""
    word = "Q" if big else "I"
    mark = {"<": b"II", ">": b"MM"}[order]
    data = bytearray(mark + struct.pack(f"{order}H", 43 if big else 42))
    data += struct.pack(f"{order}HH", 8, 0) if big else b""
    link = len(data)
    data += bytes(struct.calcsize(word))
    for directory in directories:
        offsets = []
        for tile in directory.tiles:
            offsets.append(len(data) if tile else 0)
            data += tile
        tags = sorted(_tags(directory, offsets, 16 if big else 4).items())
        data += bytes(-len(data) % 8)
        struct.pack_into(f"{order}{word}", data, link, len(data))
        link = _append(data, tags, order=order, word=word)
    path.write_bytes(data)
    return path


def _tags(
    directory: Directory, offsets: list[int], word: int
) -> dict[int, tuple[int, tuple[int, ...]]]:
    tags: dict[int, tuple[int, tuple[int, ...]]] = {
        256: (4, (directory.size[0],)),
        257: (4, (directory.size[1],)),
        258: (3, (8, 8, 8)),
        259: (3, (directory.compression,)),
        262: (3, (directory.photometric,)),
        277: (3, (3,)),
        284: (3, (1,)),
        322: (4, (directory.tile_px,)),
        323: (4, (directory.tile_px,)),
        324: (word, tuple(offsets)),
        325: (4, tuple(map(len, directory.tiles))),
    }
    if directory.description:
        tags[270] = (2, (*directory.description.encode(), 0))
    if directory.tables:
        tags[347] = (7, tuple(directory.tables))
    return tags | dict(directory.other)


def _append(
    data: bytearray, tags: list[tuple[int, tuple[int, tuple[int, ...]]]], *, order: str, word: str
) -> int:
    """Append a directory and its longer values; returns where its link is."""
    wide = struct.calcsize(word)
    beyond = len(data) + (8 if wide == 8 else 2) + len(tags) * (4 + 2 * wide) + wide
    longer = bytearray()
    data += struct.pack(f"{order}{'Q' if wide == 8 else 'H'}", len(tags))
    for number, (kind, values) in tags:
        packed = struct.pack(f"{order}{len(values)}{FORMATS[kind]}", *values)
        if len(packed) > wide:
            longer += bytes(-len(longer) % 2)
            place = struct.pack(f"{order}{word}", beyond + len(longer))
            longer += packed
            packed = place
        data += struct.pack(f"{order}HH{word}", number, kind, len(values))
        data += packed.ljust(wide, b"\0")
    link = len(data)
    data += bytes(wide) + longer
    return link
