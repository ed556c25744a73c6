from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.report.overlay import (
    LEGEND_PX,
    MIN_WIDTH_PX,
    encode_layer,
    encode_png,
    fitted,
    render_overlay,
    shade_layer,
)
from sagdeploy.report.scale import COLOURS
from sagdeploy.slides.tiling import Tiles

SLIDE = (1000, 650)


def lattice(columns: int, rows: int, size_l0: tuple[int, int]) -> Tiles:
    x, y = np.arange(columns) * size_l0[0], np.arange(rows) * size_l0[1]
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Tiles(corners.astype(np.int64), size_l0, size_l0, 0.5)


@pytest.mark.parametrize(
    ("size_px", "fits"), [((512, 300), (256, 150)), ((256, 9), (256, 9)), ((3, 2000), (1, 256))]
)
def test_a_picture_is_made_smaller_and_never_larger(
    size_px: tuple[int, int], fits: tuple[int, int]
) -> None:
    assert fitted(size_px, 256) == fits


def test_the_hottest_tile_lights_up_exactly_its_pixels() -> None:
    tiles = lattice(10, 6, (100, 100))
    attention = np.full(60, 0.001, np.float32)
    attention[23] = 1 - 0.059  # the third row's fourth tile: x 300 to 400, y 200 to 300
    grey = np.full((325, 500, 3), 100, np.uint8)  # the slide at a half
    picture = render_overlay(
        grey, slide_size_l0=SLIDE, tiles=tiles, attention=attention, scale="raw"
    )
    hot = (picture[:325, :500] == picture[120, 170]).all(axis=-1)
    rows, columns = np.nonzero(hot)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 149, 150, 199)
    assert hot.sum() == 50 * 50


@given(
    columns=st.integers(1, 12),
    rows=st.integers(1, 12),
    tile=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size_px=st.tuples(st.integers(12, 300), st.integers(12, 300)),
)
def test_tiles_side_by_side_neither_gap_nor_overlap(
    columns: int, rows: int, tile: tuple[int, int], size_px: tuple[int, int]
) -> None:
    tiles = lattice(columns, rows, tile)
    slide_size = (columns * tile[0], rows * tile[1])
    shade = (np.arange(columns * rows) + 1).astype(np.uint8)
    layer = shade_layer(size_px, slide_size_l0=slide_size, tiles=tiles, shade=shade)
    column_of, row_of = (
        np.searchsorted(np.arange(count) * length // count, range(length), "right") - 1
        for count, length in [(columns, size_px[0]), (rows, size_px[1])]
    )
    expected = row_of[:, None] * columns + column_of + 1
    assert (layer == expected).all()


def test_only_tiles_are_coloured() -> None:
    tiles = Tiles(np.array([[700, 0]]), (200, 100), (224, 224), 0.5)
    thumbnail = np.random.default_rng(0).integers(0, 256, (650, 1000, 3), np.uint8)
    picture = render_overlay(
        thumbnail, slide_size_l0=SLIDE, tiles=tiles, attention=np.ones(1, np.float32)
    )
    changed = (picture[:650] != thumbnail).any(axis=-1)
    assert changed[:100, 700:900].mean() > 0.99
    changed[:100, 700:900] = False
    assert not changed.any()


def test_tiles_may_reach_beyond_the_slide() -> None:
    tiles = Tiles(np.array([[900, 600], [-50, -50], [2000, 0]]), (200, 100), (224, 224), 0.5)
    layer = shade_layer(
        (100, 65), slide_size_l0=SLIDE, tiles=tiles, shade=np.array([5, 6, 7], np.uint8)
    )
    assert (layer[60:, 90:] == 5).all()
    assert (layer[:5, :15] == 6).all()
    assert (layer > 0).sum() == 5 * 10 + 5 * 15


def test_of_tiles_smaller_than_a_pixel_the_hottest_is_seen() -> None:
    tiles = lattice(100, 65, (10, 10))
    shade = np.ones(6500, np.uint8)
    shade[100 * 32 + 55] = 200
    layer = shade_layer((10, 10), slide_size_l0=SLIDE, tiles=tiles, shade=shade)
    assert layer[4, 5] == 200
    assert (layer > 0).all()
    assert (layer == 200).sum() == 1


@pytest.mark.parametrize(("width", "expected"), [(100, MIN_WIDTH_PX), (700, 700)])
def test_the_legend_lies_below_and_the_map_at_the_top_left(width: int, expected: int) -> None:
    thumbnail = np.full((65, width, 3), 7, np.uint8)
    tiles = Tiles(np.array([[500, 300]]), (100, 100), (224, 224), 0.5)
    picture = render_overlay(
        thumbnail, slide_size_l0=SLIDE, tiles=tiles, attention=np.ones(1, np.float32)
    )
    assert picture.shape == (65 + LEGEND_PX, expected, 3)
    assert (picture[0, 0] == 7).all()
    assert (picture[65:] == COLOURS[255]).all(axis=-1).any()


@pytest.mark.parametrize("scale", ["percentile", "raw"])
def test_the_same_map_is_the_same_bytes(scale: Literal["percentile", "raw"]) -> None:
    def render() -> bytes:
        tiles = lattice(10, 6, (100, 100))
        attention = np.random.default_rng(1).dirichlet(np.ones(60)).astype(np.float32)
        thumbnail = np.full((65, 100, 3), 200, np.uint8)
        return encode_png(
            render_overlay(
                thumbnail, slide_size_l0=SLIDE, tiles=tiles, attention=attention, scale=scale
            )
        )

    first = render()
    assert first == render()
    assert b"tIME" not in first
    assert b"tEXt" not in first


def test_a_layer_is_transparent_where_there_is_no_tile() -> None:
    layer: NDArray[np.uint8] = np.array([[0, 1, 255]], np.uint8)
    rgba = np.asarray(Image.open(BytesIO(encode_layer(layer))).convert("RGBA"))
    assert rgba[0, :, 3].tolist() == [0, 255, 255]
    assert (rgba[0, 1:, :3] == COLOURS[[1, 255]]).all()
