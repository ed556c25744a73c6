"""JPEG tiles of a TIFF to pixels, exactly as OpenSlide decodes them.

The TIFF and not the JPEG says what the colours are, and the tiles may share their tables, so
that a tile is completed before a JPEG library sees it. Like OpenSlide, we take a warning of
libjpeg's (damaged data) for an error.
Reference: ITU T.81 annex B (markers), TIFF technical note 2, Adobe's APP14.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sagdeploy.slides.tileindex import UnfitError

RGB, YCBCR = 2, 6
"""TIFF's photometric interpretations."""

START, END, SCAN = 0xD8, 0xD9, 0xDA
QUANTISATION, HUFFMAN = 0xDB, 0xC4
FRAMES: Final = (0xC0, 0xC1, 0xC2)
"""Baseline, extended, progressive."""

COLOUR_MARKERS: Final = (0xE0, 0xEE)
"""JFIF and Adobe: what they say of the colours does not count in a TIFF."""

SAYS: Final = {
    photometric: b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    for photometric, transform in ((RGB, 0), (YCBCR, 1))
}
"""The start of a JPEG whose colours are as the TIFF says."""


class Head(NamedTuple):
    """What a tile starts with, up to the marker of its scan; tiles of a level mostly share it."""

    found: bytes
    completed: bytes
    """As a JPEG library is to see it."""

    shape: tuple[int, int]
    """(height, width) that it declares."""


@dataclass(slots=True)
class Start:
    """What all tiles of a level start with: the colours' kind, and the tables they share."""

    segments: bytes
    latest: Head | None = None
    """Of a tile before: most have the same, and need not be parsed."""


def shared_start(photometric: int, tables: bytes) -> Start:
    """What all tiles of a level start with; UnfitError where a part of it is unheard of."""
    if photometric not in SAYS:
        raise UnfitError(f"photometric {photometric}")
    segments, _ = _split(tables) if tables else ([], 0)
    if any(marker not in (QUANTISATION, HUFFMAN) for marker, _ in segments):
        raise UnfitError("the shared tables hold more than tables")
    return Start(SAYS[photometric] + b"".join(segment for _, segment in segments))


def decode(start: Start, tile: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a tile into `out`, RGB (h, w, 3) or RGBX (h, w, 4); UnfitError where it is unlike."""
    head = start.latest
    if head is None or not tile.startswith(head.found):
        head = start.latest = _head(start, tile)
    if head.shape != out.shape[:2]:
        raise UnfitError(f"{head.shape[1]} x {head.shape[0]} px, not {out.shape[1::-1]}")
    try:
        stream = head.completed + tile[len(head.found) :]
        simplejpeg.decode_jpeg(stream, "RGB" if out.shape[2] == 3 else "RGBX", buffer=out)
    except ValueError as error:
        raise UnfitError(str(error)) from error


def _head(start: Start, tile: bytes) -> Head:
    """The head of a tile of three 8-bit components; UnfitError where it is another's."""
    segments, scan = _split(tile)
    found = tile[: scan + 2]
    if found[-1] != SCAN:
        raise UnfitError("a JPEG stream without a scan")
    frames = [segment for marker, segment in segments if 0xC0 <= marker <= 0xCF and marker != 0xC4]
    if len(frames) != 1 or frames[0][1] not in FRAMES:
        raise UnfitError("not one frame of Huffman codes")
    depth, height, width, components = struct.unpack(">BHHB", frames[0][4:10].ljust(6, b"\0"))
    if (depth, components) != (8, 3):
        raise UnfitError("not three 8-bit components")
    own = [segment for marker, segment in segments if marker not in COLOUR_MARKERS]
    return Head(found, b"".join((start.segments, *own, found[-2:])), (height, width))


def _split(stream: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Marker segments of a JPEG stream, and where its scan (or its end) starts."""
    if stream[:2] != b"\xff\xd8":
        raise UnfitError("a JPEG stream without a start")
    segments: list[tuple[int, bytes]] = []
    at = 2
    while stream[at : at + 1] == b"\xff":
        marker = stream[at + 1] if at + 1 < len(stream) else END
        if marker in (SCAN, END):
            return segments, at
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if end < at + 4 or marker < 0xC0 or marker == 0xFF:
            raise UnfitError(f"marker {marker:#x} in a JPEG's head")
        segments.append((marker, stream[at:end]))
        at = end
    raise UnfitError("a JPEG stream without an end")
