"""The index of a TIFF: what was written is found, and what is damaged is refused."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.slides.tileindex import MAX_DIRECTORIES, UnfitError, read_index
from tests.slides.tiled import YCBCR, Directory, write_tiled

LARGE = Directory((300, 200), 64, [bytes([n]) * (n + 1) for n in range(5 * 4)], tables=b"shared")
SMALL = Directory((75, 50), 64, [b"a", b""])


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_what_was_written_is_found(tmp_path: Path, order: str, big: bool) -> None:
    path = write_tiled(tmp_path / "a.tif", [LARGE, SMALL], order=order, big=big)
    data = path.read_bytes()
    with opened(path) as descriptor:
        large, small = read_index(descriptor)
    assert (large.size, large.tile_size, large.tables) == ((300, 200), (64, 64), b"shared")
    assert (large.compression, large.photometric) == (7, YCBCR)
    assert (large.across, large.down, large.has_all) == (5, 4, True)
    assert (small.size, small.tables, small.has_all) == ((75, 50), b"", False)
    found = [
        data[offset : offset + length]
        for offset, length in zip(large.offsets.tolist(), large.lengths.tolist(), strict=True)
    ]
    assert found == list(LARGE.tiles)


def test_only_tiles_of_8_bit_rgb_are_listed(tmp_path: Path) -> None:
    others = [
        Directory((75, 50), 64, [b"a", b"b"], other={258: (3, (16, 16, 16))}),
        Directory((75, 50), 64, [b"a", b"b"], other={258: (3, (8,)), 277: (3, (1,))}),
        Directory((75, 50), 64, [b"a", b"b"], other={284: (3, (2,))}),
    ]
    with opened(write_tiled(tmp_path / "a.tif", [*others, LARGE])) as descriptor:
        assert [index.size for index in read_index(descriptor)] == [LARGE.size]


@pytest.mark.parametrize(
    ("tag", "kind", "values"),
    [
        (256, 4, (2**32 - 1,)),
        (256, 4, (0,)),
        (257, 4, (2**32 - 1,)),
        (322, 4, (0,)),
        (322, 4, (1 << 20,)),
        (324, 4, (8,) * 19),
        (325, 4, (8,) * 21),
        (347, 7, (0,) * 70_000),
    ],
)
def test_counts_that_do_not_fit_the_image_are_refused(
    tmp_path: Path, tag: int, kind: int, values: tuple[int, ...]
) -> None:
    lying = Directory(LARGE.size, 64, LARGE.tiles, other={tag: (kind, values)})
    path = write_tiled(tmp_path / "a.tif", [lying])
    with opened(path) as descriptor, pytest.raises(UnfitError):
        read_index(descriptor)


def test_directories_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", [SMALL])
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[link : link + 4] = data[4:8]
    path.write_bytes(data)
    with opened(path) as descriptor, pytest.raises(UnfitError, match=str(MAX_DIRECTORIES)):
        read_index(descriptor)


@given(st.data())
def test_damage_is_found_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.tif"
    write_tiled(path, [LARGE, SMALL], big=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with opened(path) as descriptor:
        try:
            indices = read_index(descriptor)
        except UnfitError:
            return
    for index in indices:
        assert len(index.offsets) == len(index.lengths) == index.across * index.down
        assert np.issubdtype(index.offsets.dtype, np.unsignedinteger)
