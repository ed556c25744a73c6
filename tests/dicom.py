"""DICOM slides of several files, made of a real one that has a single file."""

import struct
from pathlib import Path

NAME = "multiframe_camelyon_challenge_image.dcm"
"""1152 x 700 px in 15 frames of 256 x 256."""

SERIES = b"1.3.6.1.4.1.11129.5.7.0.1.517182092386.24422120.1688792467737634"
INSTANCE = b"1.2.276.0.7230010.3.1.4.296485376.89.1688794081.412405"
"""SOPInstanceUID."""

ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
PIXELS = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
HALF, HALF_FRAMES = (576, 350), 6


def half_level(data: bytes) -> bytes:
    """Another instance of the series: a level of half the size, of the slide's first frames."""
    data = data.replace(INSTANCE, INSTANCE[:-1] + b"6")
    data = _with_value(data, (0x0028, 0x0008), b"IS", b"%-2d" % HALF_FRAMES)
    for number, side in zip((0x0006, 0x0007), HALF, strict=True):
        data = _with_value(data, (0x0048, number), b"UL", struct.pack("<I", side))
    head, _, pixels = data.partition(PIXELS)
    end = 0
    for _ in range(1 + HALF_FRAMES):  # a table of offsets comes first
        assert pixels[end : end + 4] == ITEM
        end += 8 + struct.unpack_from("<I", pixels, end + 4)[0]
    first = 8 + struct.unpack_from("<I", pixels, 4)[0]
    return head + PIXELS + ITEM + bytes(4) + pixels[first:end] + SEQUENCE_END


def of_series(data: bytes, number: int) -> bytes:
    """The same in another series."""
    return data.replace(SERIES, SERIES[:-1] + b"%d" % number)


def write_series(folder: Path, real: Path) -> tuple[Path, Path]:
    """A slide of two levels in `1.dcm` and `2.dcm` of a folder, which is made."""
    folder.mkdir(exist_ok=True)
    whole, half = folder / "1.dcm", folder / "2.dcm"
    data = real.read_bytes()
    whole.write_bytes(data)
    half.write_bytes(half_level(data))
    return whole, half


def _with_value(data: bytes, tag: tuple[int, int], kind: bytes, value: bytes) -> bytes:
    """The data with another value, of the same length, in an element that is there once."""
    begin = struct.pack("<HH", *tag) + kind + struct.pack("<H", len(value))
    assert data.count(begin) == 1
    at = data.index(begin) + len(begin)
    return data[:at] + value + data[at + len(value) :]
