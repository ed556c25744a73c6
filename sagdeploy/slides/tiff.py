"""A pyramidal BigTIFF whose tiles arrive already compressed: painted slides, attention maps.

Tiles are written as they come and the directories after them, so that nothing but tile
offsets is held in memory. Nothing is written that differs between two runs.
Reference: TIFF 6.0, its technical note 2 (JPEG), the BigTIFF layout of libtiff, and the
pyramids of OME-TIFF, whose smaller levels hang below the largest instead of following it.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Final, Literal

TILE_PX: Final = 256
ASCII, SHORT, LONG, RATIONAL, LONG8, IFD8 = 2, 3, 4, 5, 16, 18
FORMATS: Final = {ASCII: "B", SHORT: "H", LONG: "I", RATIONAL: "II", LONG8: "Q", IFD8: "Q"}
HEADER: Final = struct.Struct("<2sHHHQ")
CENTIMETRE, REDUCED = 3, 1

Tags = Mapping[int, tuple[int, tuple[int, ...]]]
"""Type and values by number of the tag."""

PixelKind = Literal["jpeg", "float"]
PIXELS: Final[dict[PixelKind, Tags]] = {
    "jpeg": {
        258: (SHORT, (8, 8, 8)),
        259: (SHORT, (7,)),  # JPEG
        262: (SHORT, (6,)),  # YCbCr ...
        277: (SHORT, (3,)),
        530: (SHORT, (2, 2)),  # ... with colour at half resolution
    },
    "float": {
        258: (SHORT, (32,)),
        259: (SHORT, (8,)),  # Deflate
        262: (SHORT, (1,)),  # 0 is black
        277: (SHORT, (1,)),
        339: (SHORT, (3,)),  # IEEE
    },
}


@dataclass(frozen=True, slots=True)
class Directory:
    """One level of the pyramid and where in the file its tiles are."""

    size_px: tuple[int, int]
    """(width, height)"""

    mpp: float
    is_reduced: bool
    offsets: tuple[int, ...]
    """Of each tile, row by row."""

    lengths: tuple[int, ...]
    """Bytes of each tile."""

    pixels: PixelKind = "jpeg"
    description: str = ""
    smaller: tuple["Directory", ...] = ()
    """Levels that hang below this one, as in OME-TIFF."""

    def tags(self, smaller: tuple[int, ...] = ()) -> Tags:
        """What TIFF says of the level, sorted by number.

        smaller: where in the file its smaller levels are
        """
        # Pixels a centimetre; exact for any mpp of a few decimals, and within 32 bits.
        per_cm = (Fraction(10_000) / Fraction(str(self.mpp))).limit_denominator(10_000)
        resolution = (RATIONAL, (per_cm.numerator, per_cm.denominator))
        tags: dict[int, tuple[int, tuple[int, ...]]] = {
            254: (LONG, (REDUCED * self.is_reduced,)),
            256: (LONG, (self.size_px[0],)),
            257: (LONG, (self.size_px[1],)),
            282: resolution,
            283: resolution,
            284: (SHORT, (1,)),
            296: (SHORT, (CENTIMETRE,)),
            322: (LONG, (TILE_PX,)),
            323: (LONG, (TILE_PX,)),
            324: (LONG8, self.offsets),
            325: (LONG8, self.lengths),
            **PIXELS[self.pixels],
        }
        if self.description:
            tags[270] = (ASCII, (*self.description.encode(), 0))
        if smaller:
            tags[330] = (IFD8, smaller)
        return dict(sorted(tags.items()))


def start(file: BinaryIO) -> None:
    """Leave room for the header of an empty file."""
    file.write(bytes(HEADER.size))


def write_tiles(
    file: BinaryIO,
    tiles: Iterable[bytes],
    *,
    size_px: tuple[int, int],
    mpp: float,
    is_reduced: bool,
    pixels: PixelKind = "jpeg",
) -> Directory:
    """Append the tiles of one level, row by row, each compressed as `pixels` says."""
    offsets, lengths = [], []
    for tile in tiles:
        offsets.append(file.tell())
        lengths.append(file.write(tile))
    return Directory(size_px, mpp, is_reduced, tuple(offsets), tuple(lengths), pixels)


def finish(file: BinaryIO, directories: Iterable[Directory]) -> None:
    """Write the directories, largest level first, and the header that leads to them."""
    link = HEADER.size - 8
    for directory in directories:
        smaller = tuple(_write_apart(file, level) for level in directory.smaller)
        _align(file)
        here = file.tell()
        file.seek(link)
        file.write(struct.pack("<Q", here))
        file.seek(here)
        link = _write_directory(file, directory.tags(smaller))
    file.seek(0)
    file.write(struct.pack("<2sHHH", b"II", 43, 8, 0))


def _write_apart(file: BinaryIO, directory: Directory) -> int:
    """Write a directory that none follows; returns where it is."""
    _align(file)
    here = file.tell()
    _write_directory(file, directory.tags())
    return here


def _write_directory(file: BinaryIO, tags: Tags) -> int:
    """Write one directory, then the values too long for it; returns where its link is."""
    beyond = file.tell() + 8 + 20 * len(tags) + 8
    entries, longer = [], []
    for number, (kind, values) in tags.items():
        data = struct.pack(f"<{FORMATS[kind] * (len(values) // len(FORMATS[kind]))}", *values)
        count = len(values) // len(FORMATS[kind])
        if len(data) > 8:
            longer.append(data)
            data, beyond = struct.pack("<Q", beyond), beyond + len(data)
        entries.append(struct.pack("<HHQ", number, kind, count) + data.ljust(8, b"\0"))
    file.write(struct.pack("<Q", len(tags)) + b"".join(entries))
    link = file.tell()
    file.write(bytes(8) + b"".join(longer))
    return link


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % 8))
