"""Which series a DICOM file belongs to, from its header alone.

A DICOM slide is a series: a file for each level, and more. OpenSlide says the series of a slide
that it has opened, but to open it reads every file of the folder, and asking it of every file
would be their square. The header is read here by arithmetic: no library, no pixel, no patient.
"""

import struct
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".dcm"
"""That the files usually have; OpenSlide does not ask for it."""

Tag = tuple[int, int]

TRANSFER_SYNTAX: Tag = (0x0002, 0x0010)
SERIES: Tag = (0x0020, 0x000E)
ITEM_END: Tag = (0xFFFE, 0xE00D)
SEQUENCE_END: Tag = (0xFFFE, 0xE0DD)

IMPLICIT = "1.2.840.10008.1.2"
"""The transfer syntax without types (VR). Those of OpenSlide are all of little endian."""

LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Types whose length takes four bytes, after two empty ones."""

UNDEFINED = 0xFFFFFFFF
"""Length of what lasts until its end is marked: a sequence, or an item of one."""

MOST_ELEMENTS = 10_000
"""Before the series; scanners write a hundred."""

UID_BYTES = 64


def series_of(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None of any other, and where it cannot be told.

    Raises OSError where the file cannot be read.
    """
    if not path.is_file():  # opening a FIFO would wait for ever
        return None
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
        try:
            return _series(file)
        except struct.error:  # it ends before its series
            return None


def _series(file: BinaryIO) -> str | None:
    """The series, from the first element on; elements come in the order of their tags."""
    typed: list[bool] = []  # of each open sequence and item, whether types are written in it
    syntax = ""
    for _ in range(MOST_ELEMENTS):
        group, number = struct.unpack("<HH", file.read(4))
        tag = (group, number)
        has_type = typed[-1] if typed else group == 2 or syntax != IMPLICIT
        kind = file.read(2) if has_type and group != 0xFFFE else b""
        length = _length(file, kind)
        if length == UNDEFINED:
            typed.append(has_type and kind != b"UN")  # what is of unknown type is written without
        elif tag in (ITEM_END, SEQUENCE_END) and typed:
            typed.pop()
        elif typed or tag not in (TRANSFER_SYNTAX, SERIES):
            if not typed and tag > SERIES:
                return None
            file.seek(length, 1)
        elif tag == SERIES:
            return _uid(file, length)
        else:
            syntax = _uid(file, length) or ""
    return None


def _length(file: BinaryIO, kind: bytes) -> int:
    """Bytes of an element's value."""
    if kind and kind not in LONG:
        return int(struct.unpack("<H", file.read(2))[0])
    if kind:
        file.seek(2, 1)
    return int(struct.unpack("<I", file.read(4))[0])


def _uid(file: BinaryIO, length: int) -> str | None:
    """A unique identifier, without what fills it up; None where it is none."""
    if length > UID_BYTES:
        return None
    return file.read(length).rstrip(b"\0 ").decode("ascii", "replace") or None
