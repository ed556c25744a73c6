import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely import MultiPolygon, Point, box

from sagdeploy.guidance.annotations import join
from sagdeploy.guidance.weights import area_ratios, guidance_weights
from sagdeploy.slides.tiling import Tiles

NOTHING = MultiPolygon()


def lattice(columns: int, rows: int, size_l0: tuple[int, int]) -> Tiles:
    """Tiles side by side, row by row."""
    width, height = size_l0
    x, y = np.meshgrid(np.arange(columns) * width, np.arange(rows) * height)
    xy_l0 = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.int64)
    return Tiles(xy_l0=xy_l0, size_l0=size_l0, size_px=(8, 8), mpp=0.5)


def test_ratios_know_left_from_top_and_width_from_height() -> None:
    tiles = lattice(3, 2, (10, 4))
    ratios = area_ratios(MultiPolygon([box(0, 0, 15, 3)]), tiles)
    assert ratios.tolist() == [0.75, 0.375, 0, 0, 0, 0]


def test_a_triangle_is_halved_exactly_and_not_by_pixels() -> None:
    tiles = lattice(1, 1, (7, 7))
    triangle = MultiPolygon([shapely.Polygon([(0, 0), (7, 0), (0, 7)])])
    assert area_ratios(triangle, tiles) == pytest.approx([0.5])


def test_holes_do_not_count() -> None:
    ring = MultiPolygon([box(0, 0, 40, 40).difference(box(10, 10, 20, 20))])
    assert area_ratios(ring, lattice(2, 2, (20, 20))) == pytest.approx([0.75, 1, 1, 1])


circles = st.tuples(st.integers(0, 300), st.integers(0, 120), st.integers(1, 60))


@given(st.lists(circles, min_size=1, max_size=6), st.permutations(range(15 * 8)))
def test_ratios_are_those_of_one_tile_at_a_time(
    drawn: list[tuple[int, int, int]], order: list[int]
) -> None:
    regions = join(Point(x, y).buffer(radius) for x, y, radius in drawn)
    in_rows = lattice(15, 8, (20, 16))
    tiles = Tiles(in_rows.xy_l0[order], in_rows.size_l0, in_rows.size_px, in_rows.mpp)
    naive = [regions.intersection(box(x, y, x + 20, y + 16)).area / 320 for x, y in tiles.xy_l0]
    np.testing.assert_allclose(area_ratios(regions, tiles), naive, atol=1e-12)


@given(st.lists(circles, min_size=1, max_size=4))
def test_tiles_side_by_side_hold_the_whole_area(drawn: list[tuple[int, int, int]]) -> None:
    regions = join(Point(x + 70, y + 70).buffer(radius) for x, y, radius in drawn)
    tiles = lattice(30, 20, (17, 13))
    inside = regions.intersection(box(0, 0, 30 * 17, 20 * 13)).area
    assert area_ratios(regions, tiles).sum() * 17 * 13 == pytest.approx(inside)


def test_overlapping_tiles_each_count_in_full() -> None:
    xy_l0 = np.array([[0, 0], [5, 0], [0, 0]], np.int64)
    tiles = Tiles(xy_l0, (10, 10), (8, 8), 0.5)
    assert area_ratios(MultiPolygon([box(0, 0, 10, 10)]), tiles).tolist() == [1, 0.5, 1]


def test_no_region_and_no_tile() -> None:
    assert area_ratios(NOTHING, lattice(2, 1, (9, 9))).tolist() == [0, 0]
    none = Tiles(np.empty((0, 2), np.int64), (9, 9), (8, 8), 0.5)
    assert area_ratios(MultiPolygon([box(0, 0, 1, 1)]), none).shape == (0,)


def test_weights_are_shares_of_the_covered_area() -> None:
    weights = guidance_weights(np.array([0.5, 0, 1.0, 0.5]))
    assert weights.tolist() == [0.25, 0, 0.5, 0.25]
    assert weights.dtype == np.float32


def test_nothing_covered_is_no_guidance_and_no_nan() -> None:
    assert guidance_weights(np.zeros(3)).tolist() == [0, 0, 0]
    assert guidance_weights(np.zeros(0)).shape == (0,)


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1)))
def test_weights_sum_to_one_or_are_all_zero(coverage: np.ndarray) -> None:
    weights = guidance_weights(coverage)
    total = weights.sum(dtype=np.float64)
    assert np.isfinite(weights).all()
    assert total == pytest.approx(1, abs=1e-5) if coverage.any() else total == 0
    assert (weights[coverage == 0] == 0).all()
