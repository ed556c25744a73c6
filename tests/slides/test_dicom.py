"""The series of a DICOM file is told from its header, as OpenSlide tells it."""

import os
import struct
from pathlib import Path

import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.slides.dicom import series_of
from tests import dicom

UID = b"1.2.840.113619.7"
EXPLICIT, IMPLICIT = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0"
UNDEFINED = 0xFFFFFFFF


def element(group: int, number: int, kind: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element with its type, or without where `kind` is empty."""
    length = len(value) if length is None else length
    tag = struct.pack("<HH", group, number)
    if kind in (b"SQ", b"UN"):
        return tag + kind + bytes(2) + struct.pack("<I", length) + value
    if kind:
        return tag + kind + struct.pack("<H", length) + value
    return tag + struct.pack("<I", length) + value


def nested(kind: bytes, inside: bytes) -> bytes:
    """A sequence of one item, both without a length, that holds another series' UID."""
    other = inside + element(0x0020, 0x000E, kind if kind != b"UN" else b"", b"9.9\0")
    item = element(0xFFFE, 0xE000, b"", other, UNDEFINED) + element(0xFFFE, 0xE00D, b"", b"")
    return item + element(0xFFFE, 0xE0DD, b"", b"")


def file_of(path: Path, syntax: bytes, *elements: bytes) -> Path:
    head = bytes(128) + b"DICM" + element(0x0002, 0x0010, b"UI", syntax)
    path.write_bytes(head + b"".join(elements))
    return path


def test_a_real_series_is_the_one_that_openslide_tells(shared_data: Path) -> None:
    path = shared_data / "slides" / dicom.NAME
    with openslide.OpenSlide(path) as slide:
        assert series_of(path) == slide.properties["dicom.SeriesInstanceUID"]


def test_a_header_may_have_sequences_and_no_types(tmp_path: Path) -> None:
    series = element(0x0020, 0x000E, b"UI", UID + b"\0")
    sequence = element(0x0008, 0x1115, b"SQ", nested(b"UI", b""), UNDEFINED)
    foreign = element(0x0009, 0x0010, b"UN", nested(b"UN", b""), UNDEFINED)
    closed = element(0x0008, 0x1140, b"SQ", element(0xFFFE, 0xE000, b"", b"x" * 70))
    typed = file_of(tmp_path / "a", EXPLICIT, sequence, closed, foreign, series)
    plain = element(0x0008, 0x1115, b"", nested(b"", b""), UNDEFINED)
    bare = file_of(tmp_path / "b", IMPLICIT, plain, element(0x0020, 0x000E, b"", UID + b"\0"))
    assert series_of(typed) == series_of(bare) == UID.decode()


def test_what_is_no_dicom_has_no_series(tmp_path: Path, painted: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    late = file_of(tmp_path / "late", EXPLICIT, element(0x0028, 0x0010, b"US", b"\0\1"))
    for path in (painted, tmp_path, tmp_path / "fifo", tmp_path / "none", late):
        assert series_of(path) is None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "hostile.dcm"


@given(st.binary(max_size=200))
def test_no_header_does_harm(scratch: Path, data: bytes) -> None:
    path = file_of(scratch, EXPLICIT, data)
    found = series_of(path)
    assert found is None or len(found) <= 64
