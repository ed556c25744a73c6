from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sagdeploy.errors import ConfigError, NotAnalysableError
from sagdeploy.slides.tiling import TilePlan, Tiles, bounding_box_l0, coverage, plan_tiles

# Wider than high, and a multiple of nothing: a swapped axis cannot pass.
SIZE = (1000, 650)
EVERYWHERE = np.ones((65, 100), np.bool_)

sides = st.integers(1, 500)
sizes = st.tuples(sides, sides)
shares = st.floats(0, 0.9)
mpps = st.floats(0.1, 1.0)


def plan(
    plan: TilePlan,
    mask: NDArray[np.bool_] = EVERYWHERE,
    *,
    size: tuple[int, int] = SIZE,
    bounds: tuple[int, int, int, int] | None = None,
    mpp: float = 0.5,
) -> tuple[Tiles, ...]:
    return plan_tiles(
        plan,
        size_l0=size,
        bounds_l0=bounds or (0, 0, *size),
        slide_mpp=mpp,
        mask=mask,
        name="a.svs",
    )


def all_tiles(tile_px: int) -> TilePlan:
    return TilePlan(tile_px=tile_px, min_tissue=0)


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    """A few blots of tissue on a slide, at most 60 x 60."""
    w, h = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    mask = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((h, w)) < 0.2
    mask[draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))] = True
    return mask


def test_dense_tiles_run_row_by_row() -> None:
    (tiles,) = plan(all_tiles(300))
    assert tiles.xy_l0.tolist() == [
        [0, 0], [300, 0], [600, 0],
        [0, 300], [300, 300], [600, 300],
    ]  # fmt: skip


def test_dense_tiles_start_at_the_scanned_part() -> None:
    (tiles,) = plan(all_tiles(200), bounds=(310, 20, 450, 230))
    assert tiles.xy_l0.tolist() == [[310, 20], [510, 20]]


@given(sizes, st.integers(1, 60), mpps, shares, shares)
def test_dense_tiles_lie_in_the_bounds_and_apart(
    size: tuple[int, int], tile_px: int, mpp: float, left: float, top: float
) -> None:
    x, y = int(size[0] * left), int(size[1] * top)
    width, height = size[0] - x, size[1] - y
    side = max(1, round(tile_px * 0.5 / mpp))
    if side > min(width, height) or mpp > 0.75:
        return
    (tiles,) = plan(all_tiles(tile_px), size=size, bounds=(x, y, width, height), mpp=mpp)
    from_corner = tiles.xy_l0 - (x, y)
    assert len(tiles) == (width // side) * (height // side)
    assert (from_corner >= 0).all()
    assert (from_corner + tiles.size_l0 <= (width, height)).all()
    assert len(np.unique(from_corner // side, axis=0)) == len(tiles)


@given(st.integers(1, 1024), mpps, mpps)
def test_the_physical_size_of_a_tile_is_exact_to_half_a_pixel(
    tile_px: int, mpp: float, slide_mpp: float
) -> None:
    if slide_mpp > 1.5 * mpp:
        return
    wanted = TilePlan(tile_px=tile_px, mpp=(mpp,), min_tissue=0)
    about_l0 = int(tile_px * mpp / slide_mpp)
    (tiles,) = plan(wanted, size=(about_l0 + 2, 2 * about_l0 + 3), mpp=slide_mpp)
    assert abs(tiles.size_l0[0] * slide_mpp - tile_px * mpp) <= slide_mpp / 2 * (1 + 1e-9)
    assert tiles.size_l0[0] == tiles.size_l0[1]
    assert tiles.size_px == (tile_px, tile_px)


@pytest.mark.parametrize(("slide_mpp", "side_l0"), [(0.25, 448), (0.5, 224), (0.499, 224)])
def test_the_same_tissue_at_any_scan_resolution(slide_mpp: float, side_l0: int) -> None:
    (tiles,) = plan(TilePlan(min_tissue=0), size=(3000, 2000), mpp=slide_mpp)
    assert tiles.size_l0 == (side_l0, side_l0)


def test_sizes_do_not_hang_on_float_noise() -> None:
    grid = TilePlan(kind="grid", mpp=(0.3,), grid=(1,))
    (tiles,) = plan(grid, size=(33, 12), mpp=0.1)
    assert 33 * 0.1 / 0.3 > 11  # a ceiling of this would be 12
    assert tiles.size_px == (11, 4)


def test_tiles_with_too_little_tissue_are_left_out() -> None:
    left = np.zeros((65, 100), np.bool_)
    left[:, :33] = True
    kept = replace(all_tiles(300), min_tissue=0.1)
    assert plan(kept, left)[0].xy_l0.tolist() == [[0, 0], [300, 0], [0, 300], [300, 300]]
    mostly = replace(kept, min_tissue=0.5)
    assert plan(mostly, left)[0].xy_l0.tolist() == [[0, 0], [0, 300]]


def test_a_plan_of_several_magnifications_gives_each_its_tiles() -> None:
    fine, coarse = plan(TilePlan(mpp=(0.5, 1.0), tile_px=100, min_tissue=0))
    assert (len(fine), len(coarse)) == (10 * 6, 5 * 3)
    assert (fine.mpp, coarse.mpp) == (0.5, 1.0)
    assert fine.size_px == coarse.size_px == (100, 100)


@given(
    masks(),
    st.tuples(st.integers(60, 900), st.integers(60, 900)),
    st.integers(1, 9),
    mpps,
    mpps,
)
def test_a_grid_covers_the_whole_tissue_box(
    mask: NDArray[np.bool_], size: tuple[int, int], crops: int, mpp: float, slide_mpp: float
) -> None:
    if slide_mpp > 1.5 * mpp:
        return
    (tiles,) = plan(
        TilePlan(kind="grid", mpp=(mpp,), grid=(crops,)), mask, size=size, mpp=slide_mpp
    )
    x, y, width, height = bounding_box_l0(mask, size, "a.svs")
    assert len(tiles) == crops * crops
    assert tuple(tiles.xy_l0[0]) == (x, y)
    last = tiles.xy_l0[-1] + tiles.size_l0
    assert last[0] >= x + width
    assert last[1] >= y + height
    for side_l0, side_px in zip(tiles.size_l0, tiles.size_px, strict=True):
        assert abs(side_l0 - side_px * mpp / slide_mpp) < 1 + 1e-9


def test_grid_crops_are_as_wide_as_the_tissue_is() -> None:
    mask = np.zeros((65, 100), np.bool_)
    mask[10:30, 20:80] = True  # 600 x 200 level-0 pixels from (200, 100)
    coarse, fine = plan(TilePlan(kind="grid", mpp=(1.0, 0.5), grid=(2, 4)), mask)
    assert (coarse.size_l0, coarse.size_px) == ((300, 100), (150, 50))
    assert coarse.xy_l0.tolist() == [[200, 100], [500, 100], [200, 200], [500, 200]]
    assert (fine.size_l0, fine.size_px, len(fine)) == ((150, 50), (150, 50), 16)


@given(sizes, st.integers(1, 200), sizes)
def test_a_full_mask_covers_every_tile(
    size: tuple[int, int], side: int, shape: tuple[int, int]
) -> None:
    columns, rows = size[0] // side, size[1] // side
    xy = side * np.stack(np.divmod(np.arange(columns * rows), max(columns, 1))[::-1], axis=1)
    assert (coverage(np.ones(shape, np.bool_), xy, (side, side), size) == 1).all()
    assert (coverage(np.zeros(shape, np.bool_), xy, (side, side), size) == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_coverage_at_level_0_is_the_mean(seed: int) -> None:
    mask = np.random.default_rng(seed).random((65, 100)) < 0.3
    xy = np.array([(x, y) for y in range(0, 52, 13) for x in range(0, 80, 17)])
    expected = [mask[y : y + 13, x : x + 17].mean() for x, y in xy]
    np.testing.assert_allclose(coverage(mask, xy, (17, 13), (100, 65)), expected)


def test_coverage_knows_left_from_top() -> None:
    left = np.zeros((65, 100), np.bool_)
    left[:, :30] = True
    xy = np.array([[0, 0], [300, 0], [600, 0], [0, 300], [300, 300], [600, 300]])
    assert coverage(left, xy, (300, 300), SIZE).tolist() == [1, 0, 0, 1, 0, 0]


def test_coverage_uses_whole_numbers_at_edges() -> None:
    # the tile ends at 39 of 78 px, so at 25 of the mask's 50; math.ceil(39 * (50 / 78)) is 26
    mask = np.zeros((1, 50), np.bool_)
    mask[0, 25] = True
    assert coverage(mask, np.array([[26, 0]]), (13, 1), (78, 1)).tolist() == [0]


def test_what_lies_beyond_the_slide_is_not_covered() -> None:
    xy = np.array([[-50, 0], [900, 600], [2000, 2000]])
    assert coverage(EVERYWHERE, xy, (100, 100), SIZE).tolist() == [0.5, 0.5, 0]


def test_the_box_of_tissue_is_in_level_0_pixels() -> None:
    mask = np.zeros((13, 20), np.bool_)  # a mask pixel is 50 x 50 of level 0
    mask[2, 3] = mask[4, 10] = True
    assert bounding_box_l0(mask, SIZE, "a.svs") == (150, 100, 400, 150)


def test_a_slide_too_coarse_for_the_plan_is_refused() -> None:
    plan(all_tiles(20), mpp=0.75)
    with pytest.raises(NotAnalysableError, match=r"a.svs: scanned at 0.76 .* tiles of 0.5"):
        plan(all_tiles(20), mpp=0.76)


@pytest.mark.parametrize("wanted", [TilePlan(), TilePlan(kind="grid", grid=(3,))])
def test_a_slide_without_tissue_has_no_tiles(wanted: TilePlan) -> None:
    with pytest.raises(NotAnalysableError, match=r"a\.svs: no"):
        plan(wanted, np.zeros((65, 100), np.bool_))


def test_a_slide_of_too_many_tiles_is_refused_before_they_are_listed() -> None:
    with pytest.raises(NotAnalysableError, match="more than 1,000,000 tiles of 16 px"):
        plan(TilePlan(tile_px=16), size=(250_000, 250_000))


def test_a_slide_smaller_than_a_tile_has_no_tiles() -> None:
    with pytest.raises(NotAnalysableError, match="none of 0 tiles"):
        plan(all_tiles(651))


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "sparse"},
        {"mpp": ()},
        {"mpp": (0.5, 0.0)},
        {"mpp": (float("nan"),)},
        {"tile_px": 0},
        {"min_tissue": 1.5},
        {"grid": (5,)},
        {"kind": "grid"},
        {"kind": "grid", "grid": (0,)},
        {"kind": "grid", "mpp": (0.5, 1.0), "grid": (5,)},
    ],
)
def test_a_senseless_plan_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="got"):
        TilePlan(**bad)
