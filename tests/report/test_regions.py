import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import Polygon, box, union_all
from shapely.geometry.base import BaseGeometry

from sagdeploy.report.regions import Region, merged_regions, single_regions
from sagdeploy.slides.tiling import Tiles

SIZE = (30, 20)
ORIGIN = (7, 11)

lattices = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.lists(
        st.integers(-1, 2), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
    ).map(lambda values: np.array(values).reshape(shape))
)


def tiles_of(picture: NDArray[np.int64]) -> tuple[Tiles, NDArray[np.intp]]:
    """Tiles and values from a drawing; -1 is no tile."""
    rows, columns = np.nonzero(picture >= 0)
    corners = np.stack([columns, rows], axis=-1) * SIZE + ORIGIN
    return Tiles(corners, SIZE, SIZE, 0.5), picture[rows, columns]


def polygon(region: Region) -> Polygon:
    shell, *holes = region.rings_l0
    return Polygon(shell, holes)


def area_of(tiles: Tiles, rows: NDArray[np.intp]) -> BaseGeometry:
    corners = tiles.xy_l0[rows].tolist()
    return union_all([box(x, y, x + SIZE[0], y + SIZE[1]) for x, y in corners])


@given(lattices.filter(lambda picture: bool((picture >= 0).any())))
def test_outlines_hold_their_tiles_and_nothing_else(picture: NDArray[np.int64]) -> None:
    tiles, values = tiles_of(picture)
    regions = list(merged_regions(tiles, values))
    for region in regions:
        outline = polygon(region)
        assert outline.is_valid
        assert outline.equals(area_of(tiles, region.rows))
        assert len(np.unique(values[region.rows])) == 1
    assert sorted(row for region in regions for row in region.rows) == list(range(len(tiles)))


def test_neighbours_of_one_value_become_one_region_and_corners_do_not_join() -> None:
    tiles, values = tiles_of(np.array([[0, 0, 1], [1, 0, 1], [-1, 1, 0]]))
    regions = list(merged_regions(tiles, values))
    assert sorted(len(region.rows) for region in regions) == [1, 1, 1, 2, 3]


def test_a_ring_of_tiles_keeps_its_hole() -> None:
    tiles, values = tiles_of(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]))
    ring = next(r for r in merged_regions(tiles, values) if len(r.rows) == 10)
    shell, hole = (r.tolist() for r in ring.rings_l0)
    assert sorted(shell) == [[7, 11], [7, 71], [127, 11], [127, 71]]
    assert sorted(hole) == [[37, 31], [37, 51], [97, 31], [97, 51]]


@pytest.mark.parametrize("corner", [(15, 0), (0, 0)], ids=["off the lattice", "on another tile"])
def test_tiles_on_no_common_lattice_stay_single(corner: tuple[int, int]) -> None:
    tiles = Tiles(np.array([[0, 0], [30, 0], corner]), SIZE, SIZE, 0.5)
    regions = list(merged_regions(tiles, np.zeros(3, np.intp)))
    assert [region.rows.tolist() for region in regions] == [[0], [1], [2]]


def test_a_single_region_is_its_tile() -> None:
    (region,) = single_regions(Tiles(np.array([[5, 9]]), SIZE, SIZE, 0.5))
    assert region.rings_l0[0].tolist() == [[5, 9], [35, 9], [35, 29], [5, 29]]
