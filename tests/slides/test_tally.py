"""Pixels that a slide's file does not have are counted, to the pixel, and no others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.slides import direct
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.tally import PixelCount
from tests.slides.tiled import REDUCED, Directory, cut, jpeg, write_tiled

SIZE = (1280, 960)  # 10 x 7.5 tiles
TILE = 128
GONE = (0, 9, 34, 35, 44, 72)
"""Missing tiles; the last is one of the half tiles at the bottom."""

AREA = SIZE[0] * SIZE[1]
MISSING = 5 * TILE**2 + TILE * TILE // 2
SLIDES = pytest.mark.parametrize("opener", [open_slide, open_isolated])

Opener = Callable[[Path], Slide]
Corners = NDArray[np.int64]


@pytest.fixture(scope="module")
def levels() -> list[Directory]:
    """A pyramid of 1 and 4."""
    coarse = np.random.default_rng(2).integers(90, 256, (15, 20, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
    return [
        Directory(
            size=(SIZE[0] // scale, SIZE[1] // scale),
            tile_px=TILE,
            tiles=cut(np.asarray(image.reduce(scale)), TILE, jpeg()),
            other=kind,
        )
        for scale, kind in ((1, {}), (4, REDUCED))
    ]


@pytest.fixture(scope="module")
def whole(levels: list[Directory], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiled(tmp_path_factory.mktemp("tally") / "whole.tif", levels)


@pytest.fixture(scope="module")
def holed(levels: list[Directory], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without some tiles of level 0."""
    tiles = [b"" if number in GONE else tile for number, tile in enumerate(levels[0].tiles)]
    path = tmp_path_factory.mktemp("tally") / "holed.tif"
    return write_tiled(path, [replace(levels[0], tiles=tiles), levels[1]])


def corners(side: int, start: int = 0, beyond: int = 0) -> Corners:
    """Of squares side by side over the slide, row by row."""
    across, down = (range(start, length + beyond, side) for length in SIZE)
    return np.array([(x, y) for y in down for x in across], np.int64)


def read(slide: Slide, xy_l0: Corners, side_l0: int, side_px: int) -> PixelCount:
    """What is counted as squares are read."""
    before = slide.tiles_read
    out = np.empty((len(xy_l0), side_px, side_px, 3), np.uint8)
    slide.read_tiles(xy_l0, size_l0=(side_l0,) * 2, size_px=(side_px,) * 2, out=out)
    return slide.tiles_read - before


@SLIDES
@pytest.mark.parametrize("side", [TILE, 80, 320])
def test_each_missing_pixel_is_counted_once(holed: Path, opener: Opener, side: int) -> None:
    with opener(holed) as slide:
        assert read(slide, corners(side), side, side) == PixelCount(AREA, MISSING)
        assert slide.reader == "direct"


@pytest.mark.parametrize(("side_l0", "side_px"), [(80, 40), (80, 30), (80, 90), (2560, 1280)])
def test_level_pixels_are_counted_whatever_becomes_of_them(
    holed: Path, side_l0: int, side_px: int
) -> None:
    with open_slide(holed) as slide:
        assert read(slide, corners(side_l0), side_l0, side_px) == PixelCount(AREA, MISSING)


def test_a_level_that_is_whole_misses_nothing(holed: Path) -> None:
    with open_slide(holed) as slide:
        assert read(slide, corners(320), 320, 80) == PixelCount(AREA // 16)


def test_openslide_alone_counts_the_same(holed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "VENDORS", ())
    with open_slide(holed) as slide:
        assert slide.reader == "OpenSlide"
        assert read(slide, corners(80), 80, 80) == PixelCount(AREA, MISSING)


@SLIDES
def test_threads_at_once_lose_no_pixel(holed: Path, opener: Opener) -> None:
    with opener(holed) as slide, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda xy: read(slide, xy[None], 80, 80), corners(80)))
        assert slide.tiles_read == PixelCount(AREA, MISSING)


def test_memory_that_is_shared_changes_no_count(holed: Path) -> None:
    xy_l0 = corners(80)
    with open_isolated(holed) as slide, slide.buffers(1, (len(xy_l0), 80, 80, 3)) as (shared,):
        slide.read_tiles(xy_l0, size_l0=(80, 80), size_px=(80, 80), out=shared)
        assert slide.tiles_read == PixelCount(AREA, MISSING)


@SLIDES
@pytest.mark.parametrize("side_px", [100, 50, 45])
def test_what_lies_beyond_a_slide_is_not_missing(
    whole: Path, holed: Path, opener: Opener, side_px: int
) -> None:
    reaching = corners(100, start=-350, beyond=300)
    for path, missing in ((whole, 0), (holed, MISSING)):
        with opener(path) as slide:
            assert read(slide, reaching, 100, side_px) == PixelCount(AREA, missing)


def test_a_painted_slide_misses_nothing(painted: Path) -> None:
    with open_slide(painted) as slide:
        count = read(slide, corners(112), 112, 112)
        assert count.read > 0
        assert (count.missing, count.missing_share) == (0, 0)


@SLIDES
def test_only_tiles_are_counted(holed: Path, opener: Opener) -> None:
    with opener(holed) as slide:
        slide.thumbnail(300)
        slide.read((0, 0), SIZE, SIZE)
        assert slide.tiles_read == PixelCount()
        assert slide.tiles_read.missing_share == 0
