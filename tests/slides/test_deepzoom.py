"""The pyramid is Microsoft's, as OpenSlide cuts it; its pixels are those of the slide."""

from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from sagdeploy.slides.deepzoom import TILE_PX, DeepZoom
from sagdeploy.slides.slide import open_slide

sides = st.integers(1, 5000)


@given(sides, sides)
def test_levels_and_tiles_are_those_of_openslide(width: int, height: int) -> None:
    theirs = DeepZoomGenerator(
        openslide.ImageSlide(Image.new("1", (width, height))), TILE_PX, overlap=0
    )
    ours = DeepZoom((width, height))
    assert ours.levels == theirs.level_count
    for level, (columns, rows) in enumerate(theirs.level_tiles):
        assert ours.size_px(level) == theirs.level_dimensions[level]
        assert ours.holds(level, columns - 1, rows - 1)
        assert not ours.holds(level, columns, 0)
        assert not ours.holds(level, 0, rows)
    assert not ours.holds(ours.levels, 0, 0)


def test_the_last_level_is_the_slide(painted: Path) -> None:
    with open_slide(painted) as slide:
        zoom = DeepZoom(slide.size_l0)
        level = zoom.levels - 1
        rows = [
            np.hstack([zoom.read(slide, level, column, row) for column in range(3)])
            for row in range(3)
        ]
        whole = slide.read((0, 0), slide.size_l0, slide.size_l0)
    np.testing.assert_array_equal(np.vstack(rows), whole)


@pytest.mark.parametrize("up", [1, 2, 3])
def test_a_tile_shows_the_region_that_it_stands_for(painted: Path, up: int) -> None:
    with open_slide(painted) as slide:
        zoom = DeepZoom(slide.size_l0)
        level = zoom.levels - 1 - up
        tile = zoom.read(slide, level, 0, 0)
        whole = np.asarray(
            Image.fromarray(slide.read((0, 0), slide.size_l0, slide.size_l0)).reduce(2**up)
        )
    height, width, _ = tile.shape
    difference = np.abs(tile.astype(int) - whole[:height, :width])
    assert difference.mean() < 6
