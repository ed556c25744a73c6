"""What is read directly is what OpenSlide gives; and where it would not be, OpenSlide reads."""

import io
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sagdeploy.errors import SlideError
from sagdeploy.slides import direct, jpeg2000
from sagdeploy.slides import jpeg as jpeg_tiles
from sagdeploy.slides.slide import Slide, open_slide
from tests.slides.tiled import (
    JPEG_2000_RGB,
    RGB,
    YCBCR,
    Directory,
    Encode,
    Pixels,
    abbreviated,
    cut,
    jpeg,
    jpeg_2000,
    write_tiled,
)

SIZE = (1104, 816)  # wider than high; 1, 4 and 16 divide both
APERIO = "Aperio Image Library v11\r\n1104x816|AppMag = 20|MPP = 0.5"
Levels = list[Directory]


@cache
def texture() -> Pixels:
    """Smooth blobs of stain on glass, of all hues, in no way symmetric."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(90, 256, (17, 23, 3)).astype(np.uint8)
    fine = rng.integers(-12, 12, (SIZE[1], SIZE[0], 3))
    smooth = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC))
    return (smooth.astype(int) + fine).clip(0, 255).astype(np.uint8)


def levels(encode: Encode, tile_px: int, photometric: int = YCBCR, **facts: object) -> Levels:
    """A pyramid of 1, 4 and 16, its tiles encoded."""
    image = Image.fromarray(texture())
    return [
        Directory(
            size=(SIZE[0] // scale, SIZE[1] // scale),
            tile_px=tile_px,
            tiles=cut(np.asarray(image.reduce(scale)), tile_px, encode),
            photometric=photometric,
            **facts,  # type: ignore[arg-type]
        )
        for scale in (1, 4, 16)
    ]


def sharing_tables(directory: Directory) -> Directory:
    """The same with its tiles' tables in the tag, as Aperio writes it."""
    tables = abbreviated(directory.tiles[0])[0]
    tiles = [abbreviated(tile)[1] for tile in directory.tiles]
    return replace(directory, tiles=tiles, tables=tables)


KINDS: dict[str, Callable[[], Levels]] = {
    "4:2:0.tif": lambda: levels(jpeg(85, "4:2:0"), 256),
    "4:4:4.tif": lambda: levels(jpeg(90, "4:4:4"), 128),
    "4:2:2.svs": lambda: levels(jpeg(70, "4:2:2"), 240, description=APERIO),
    "rgb.svs": lambda: levels(jpeg(80, "4:4:4", rgb=True), 240, RGB, description=APERIO),
    "tables.svs": lambda: [
        sharing_tables(directory)
        for directory in levels(jpeg(80, "4:4:4", rgb=True), 240, RGB, description=APERIO)
    ],
    "j2k.svs": lambda: levels(jpeg_2000, 240, RGB, description=APERIO, compression=JPEG_2000_RGB),
}


@cache
def pyramid(kind: str) -> Levels:
    """A slide of a kind, not to be changed."""
    return KINDS[kind]()


@dataclass(frozen=True)
class Pair:
    """A slide opened twice."""

    direct: Slide
    openslide: Slide

    def check(self, xy: tuple[int, int], size_l0: tuple[int, int], size: tuple[int, int]) -> None:
        np.testing.assert_array_equal(
            self.direct.read(xy, size_l0, size), self.openslide.read(xy, size_l0, size)
        )


@contextmanager
def opened(path: Path) -> Iterator[Pair]:
    """A slide as it is opened, and one that is made to leave all to OpenSlide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "VENDORS", ())
        openslide = open_slide(path)
    with openslide, open_slide(path) as slide:
        yield Pair(slide, openslide)


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    path = tmp_path_factory.mktemp("tiled") / request.param
    with opened(write_tiled(path, pyramid(request.param))) as both:
        yield both


def test_a_grid_of_tiles_is_read_directly(pair: Pair) -> None:
    assert pair.direct.reader == "direct"
    assert pair.openslide.reader == "OpenSlide"


def test_a_level_is_the_same_both_ways_and_beyond_its_edges(pair: Pair) -> None:
    for scale in (1, 4, 16):
        width, height = SIZE[0] // scale + 21, SIZE[1] // scale + 13
        for xy in [(0, 0), (-5 * scale, -3 * scale), (2000, 10), (16, 900)]:
            pair.check(xy, (width * scale, height * scale), (width, height))


@settings(max_examples=20)
@given(
    st.tuples(st.integers(-90, 1200), st.integers(-90, 900)),
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.sampled_from([1, 2, 3, 4, 8, 16]),
)
def test_a_region_is_the_same_both_ways(
    pair: Pair, xy: tuple[int, int], size: tuple[int, int], factor: int
) -> None:
    aligned = (xy[0] // factor * factor, xy[1] // factor * factor)
    for corner in (xy, aligned):
        pair.check(corner, (size[0] * factor, size[1] * factor), size)


@settings(max_examples=20)
@given(
    st.tuples(st.integers(-90, 1200), st.integers(-90, 900)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_a_broken_factor_is_the_same_both_ways(
    pair: Pair, xy: tuple[int, int], size_l0: tuple[int, int], size: tuple[int, int]
) -> None:
    pair.check(xy, size_l0, size)


def test_a_thumbnail_is_the_same_both_ways(pair: Pair) -> None:
    for side in (40, 100, 500, 1104):
        np.testing.assert_array_equal(pair.direct.thumbnail(side), pair.openslide.thumbnail(side))


def corners(step: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Corners of tiles row by row, some of them beyond the slide."""
    return np.array([(x, y) for y in range(0, SIZE[1], step) for x in range(-step, SIZE[0], step)])


@pytest.mark.parametrize("factor", [1, 2])
def test_threads_at_once_read_what_one_reads(pair: Pair, factor: int) -> None:
    side_l0 = (75 * factor, 75 * factor)
    batches = np.array_split(corners(75 * factor), 8)

    def read(slide: Slide, batch: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Pixels:
        out = np.empty((len(batch), 75, 75, 3), np.uint8)
        slide.read_tiles(batch, size_l0=side_l0, size_px=(75, 75), out=out)
        return out

    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda batch: read(pair.direct, batch), batches))
    in_turn = [read(pair.openslide, batch) for batch in batches]
    np.testing.assert_array_equal(np.concatenate(at_once), np.concatenate(in_turn))


@pytest.mark.parametrize("threads", [1, 8])
def test_of_a_stripe_read_row_by_row_hardly_a_tile_is_decoded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    tile = jpeg()(Image.fromarray(texture()[:240, :240]))
    stripe = Directory(size=(8192, 2400), tile_px=240, tiles=[tile] * (35 * 10))
    assert 3 * 240 * 240 * len(stripe.tiles) > 1.5 * direct.KEPT_BYTES
    decoded: list[int] = []

    def counted(start: jpeg_tiles.Start, data: bytes, out: Pixels) -> None:
        decoded.append(1)
        real(start, data, out)

    real = jpeg_tiles.decode
    monkeypatch.setattr(jpeg_tiles, "decode", counted)
    xy_l0 = np.array([(x, y) for y in range(0, 2177, 224) for x in range(0, 7969, 224)])

    def read(batch: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> None:
        out = np.empty((len(batch), 224, 224, 3), np.uint8)
        slide.read_tiles(batch, size_l0=(224, 224), size_px=(224, 224), out=out)

    with open_slide(write_tiled(tmp_path / "a.tif", [stripe])) as slide:
        assert slide.reader == "direct"
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, np.array_split(xy_l0, len(xy_l0) // 8)))
    assert len(decoded) < 1.1 * len(stripe.tiles)  # a thread that falls far behind may repeat some


@pytest.mark.parametrize(("order", "big"), [("<", True), (">", True)])
def test_a_big_tiff_is_read_directly(tmp_path: Path, order: str, big: bool) -> None:
    path = write_tiled(tmp_path / "a.tif", pyramid("4:2:0.tif"), order=order, big=big)
    with opened(path) as pair:
        assert pair.direct.reader == "direct"
        pair.check((3, 5), (700, 500), (700, 500))
        pair.check((0, 0), SIZE, (SIZE[0] // 16, SIZE[1] // 16))


def test_our_own_painted_slides_are_read_directly(painted: Path) -> None:
    with opened(painted) as pair:
        assert pair.direct.reader == "direct"
        for scale in (1, 2, 4, 16):
            pair.check((16, 32), (1504, 1104), (1504 // scale, 1104 // scale))


def test_a_real_aperio_slide_is_the_same_both_ways(shared_data: Path) -> None:
    with opened(shared_data / "slides" / "CMU-1-Small-Region.svs") as pair:
        assert pair.direct.reader == "direct"
        pair.check((-10, -10), (2300, 3000), (2300, 3000))
        pair.check((0, 0), (2220, 2966), (1110, 1483))
        pair.check((7, 9), (2200, 2900), (613, 808))


def test_slides_of_other_makers_are_left_to_openslide(shared_data: Path) -> None:
    name = "multiframe_camelyon_challenge_image.dcm"
    with open_slide(shared_data / "slides" / name) as slide:
        assert slide.reader == "OpenSlide"


def test_a_level_between_whole_downsamples_is_left_to_openslide(tmp_path: Path) -> None:
    largest, smaller, _ = pyramid("4:2:0.tif")
    narrower = replace(smaller, size=(SIZE[0] // 4 - 1, SIZE[1] // 4))
    with opened(write_tiled(tmp_path / "a.tif", [largest, narrower])) as pair:
        assert pair.direct.reader == "direct"
        pair.check((40, 80), (800, 600), (200, 150))


def ends(slide: Slide, xy: tuple[int, int], size: tuple[int, int]) -> Pixels | str:
    """The pixels of a region, or the error it ends with."""
    try:
        return slide.read(xy, size, size)
    except SlideError as error:
        return str(error)


def end_alike(path: Path) -> str:
    """Read a slide part by part both ways; each must end the same. Returns how it was read."""
    with opened(path) as pair:
        for xy in [(x, y) for y in range(0, SIZE[1], 130) for x in range(0, SIZE[0], 170)]:
            np.testing.assert_array_equal(
                ends(pair.direct, xy, (170, 130)), ends(pair.openslide, xy, (170, 130))
            )
        return pair.direct.reader


Tamper = Callable[[bytes], bytes]

ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

TAMPERED: dict[str, Tamper] = {
    "missing": lambda tile: b"",
    "truncated": lambda tile: tile[: len(tile) // 2],
    "without its end": lambda tile: tile[:-2],
    "cut in its head": lambda tile: tile[:100],
    "cut within the marker of its scan": lambda tile: tile[: tile.index(b"\xff\xda") + 1],
    "zeroed inside": lambda tile: tile[:-900] + bytes(400) + tile[-500:],
    "something else": lambda tile: b"hello" * 99,
    "one more byte of head": lambda tile: tile[:2] + b"\xff" + tile[2:],
    "of another size": lambda tile: jpeg()(Image.new("RGB", (64, 64))),
    "grey": lambda tile: grey(256),
    "progressive": lambda tile: progressive(tile),
    "colours said otherwise": lambda tile: tile[:2] + ADOBE_RGB + tile[20:],
}


def grey(side: int) -> bytes:
    return jpeg()(Image.new("L", (side, side), 99))


def progressive(tile: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(tile)).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


@pytest.mark.parametrize("place", [6, 19])
@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_tile_ends_as_with_openslide(tmp_path: Path, how: str, place: int) -> None:
    whole = pyramid("4:2:0.tif")
    tiles = list(whole[0].tiles)
    tiles[place] = TAMPERED[how](tiles[place])
    end_alike(write_tiled(tmp_path / "a.tif", [replace(whole[0], tiles=tiles), *whole[1:]]))


def test_tiles_of_a_level_may_start_differently(tmp_path: Path) -> None:
    kinds = [jpeg(85, "4:2:0"), jpeg(60, "4:4:4"), jpeg(85, "4:2:0")]
    encoded = [levels(encode, 256)[0] for encode in kinds]
    tiles = [encoded[number % 3].tiles[number] for number in range(len(encoded[0].tiles))]
    path = write_tiled(tmp_path / "a.tif", [replace(encoded[0], tiles=tiles)])
    assert end_alike(path) == "direct"


@pytest.mark.parametrize("how", ["missing", "truncated", "of another size"])
def test_a_tampered_jpeg_2000_tile_ends_as_with_openslide(tmp_path: Path, how: str) -> None:
    whole = pyramid("j2k.svs")
    tiles = list(whole[0].tiles)
    tampered = jpeg_2000(Image.new("RGB", (64, 64))) if "size" in how else TAMPERED[how](tiles[7])
    tiles[7] = tampered
    end_alike(write_tiled(tmp_path / "a.svs", [replace(whole[0], tiles=tiles), *whole[1:]]))


def test_tiles_missing_from_an_aperio_slide_are_missing_from_its_smaller_levels(
    tmp_path: Path,
) -> None:
    whole = pyramid("4:2:2.svs")
    tiles = [b"" if number in (6, 7) else tile for number, tile in enumerate(whole[0].tiles)]
    path = write_tiled(tmp_path / "a.svs", [replace(whole[0], tiles=tiles), *whole[1:]])
    assert end_alike(path) == "direct"
    with opened(path) as pair:
        for scale in (4, 16):
            pair.check((0, 0), SIZE, (SIZE[0] // scale, SIZE[1] // scale))


LYING: dict[str, Callable[[Directory], Directory]] = {
    "tables of another quality": lambda real: replace(
        sharing_tables(real), tables=abbreviated(levels(jpeg(20), 256)[0].tiles[0])[0]
    ),
    "no tables": lambda real: replace(sharing_tables(real), tables=b""),
    "tables that are none": lambda real: replace(sharing_tables(real), tables=b"\xff\xd8hello"),
    "colours that are others": lambda real: replace(real, photometric=RGB),
    "colours that are none": lambda real: replace(real, photometric=1),
    "one offset too few": lambda real: replace(real, other={324: (4, (8,) * 19)}),
    "offsets beyond the file": lambda real: replace(real, other={324: (4, (2**31,) * 20)}),
    "lengths beyond reason": lambda real: replace(real, other={325: (4, (2**31,) * 20)}),
    "the first tile everywhere": lambda real: replace(real, other={324: (4, (8,) * 20)}),
    "planes apart": lambda real: replace(real, other={284: (3, (2,))}),
    "four channels": lambda real: replace(real, other={277: (3, (4,))}),
}


@pytest.mark.parametrize("how", LYING)
def test_a_level_that_lies_ends_as_with_openslide(tmp_path: Path, how: str) -> None:
    whole = pyramid("4:2:0.tif")
    path = write_tiled(tmp_path / "a.tif", [LYING[how](whole[0]), *whole[1:]])
    try:
        open_slide(path).close()
    except SlideError:
        return
    end_alike(path)


def test_a_slide_that_is_read_otherwise_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiled(tmp_path / "a.svs", pyramid("j2k.svs"))

    def brighter(tile: bytes, out: Pixels) -> None:
        real(tile, out)
        out[100, 100] ^= 1

    real = jpeg2000.decode
    monkeypatch.setattr(jpeg2000, "decode", brighter)
    caplog.set_level(logging.DEBUG)
    assert end_alike(path) == "OpenSlide"
    assert "other pixels at" in caplog.text


def test_nothing_is_read_directly_after_an_error_as_openslide_reads_nothing(
    tmp_path: Path,
) -> None:
    whole = pyramid("4:2:0.tif")
    tiles = [tile[:500] if number == 6 else tile for number, tile in enumerate(whole[0].tiles)]
    damaged = replace(whole[0], tiles=tiles)  # the shortest, and so no sample
    with open_slide(write_tiled(tmp_path / "a.tif", [damaged])) as slide:
        assert slide.reader == "direct"
        assert slide.read((0, 0), (99, 99), (99, 99)).shape == (99, 99, 3)
        for xy in [(300, 300), (0, 0)]:
            with pytest.raises(SlideError):
                slide.read(xy, (99, 99), (99, 99))
