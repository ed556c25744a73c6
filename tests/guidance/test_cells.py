import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from shapely import MultiPoint, Point

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.cells import cell_regions, read_cells

# Six cells in a nest, wider than high; at mpp 0.25 neighbours lie up to 20 px * 4 apart.
NEST = np.array([[0, 0], [40, 0], [80, 0], [0, 30], [40, 30], [80, 30]], np.float64)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_nest_becomes_its_convex_hull() -> None:
    regions = cell_regions(NEST + np.array([500, 300]), slide_mpp=0.25).regions
    assert regions.bounds == (500, 300, 580, 330)
    assert regions.area == 80 * 30


def test_cells_that_stand_alone_are_dropped() -> None:
    far = np.concatenate([NEST, [[5000, 100], [100, 5000], [9000, 9000]]])
    assert cell_regions(far, slide_mpp=0.25).regions.equals(
        cell_regions(NEST, slide_mpp=0.25).regions
    )


def test_four_cells_are_no_cluster() -> None:
    assert cell_regions(NEST[:4], slide_mpp=0.25).regions.is_empty
    assert cell_regions(NEST[:0], slide_mpp=0.25).regions.is_empty


def test_eps_is_microns_and_not_the_scan_s_pixels() -> None:
    nest_um = NEST * 0.25
    at_40x = cell_regions(nest_um / 0.25, slide_mpp=0.25).regions
    at_20x = cell_regions(nest_um / 0.5, slide_mpp=0.5).regions
    assert at_40x.area * 0.25**2 == pytest.approx(at_20x.area * 0.5**2)
    assert cell_regions(NEST * 4, slide_mpp=0.25).regions.is_empty


@pytest.mark.parametrize("step", [(40, 0), (0, 40), (30, 10), (0, 0)])
def test_cells_in_a_row_keep_the_width_of_a_nucleus(step: tuple[int, int]) -> None:
    row = np.arange(7.0)[:, None] * np.array(step)
    regions = cell_regions(row, slide_mpp=0.25).regions
    assert regions.area >= 20 * np.hypot(*step) * 6  # twice 5 um are 40 px
    assert all(regions.contains(Point(xy)) for xy in row)


@given(arrays(np.float64, (40, 2), elements=st.integers(0, 200).map(lambda cell: 3.0 * cell)))
def test_regions_hold_the_clustered_cells_and_nothing_beyond(xy_l0: NDArray[np.float64]) -> None:
    regions = cell_regions(xy_l0, slide_mpp=0.5).regions
    assert regions.is_valid
    beyond_l0 = 5 / 0.5 * 1.01  # round ends are polygons, which turn with their line
    assert regions.difference(MultiPoint(xy_l0).convex_hull.buffer(beyond_l0)).area < 1e-6
    is_core = (cdist(xy_l0, xy_l0) <= 20 / 0.5).sum(axis=1) >= 5
    if is_core.any():
        assert shapely.distance(regions, shapely.points(xy_l0[is_core])).max() < 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "x_l0,y_l0,kind\n3,4,tumour\n5.5,6,other\n",
        "y,x\n4,3\n6,5.5\n",
        "\ufeffx,y\r\n3,4\r\n5.5,6\r\n",
    ],
)
def test_cells_from_a_table(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "cells.csv", text)
    assert read_cells(path).tolist() == [[3, 4], [5.5, 6]]


def test_real_cells_cluster_at_10x_alone(shared_data: Path) -> None:
    cells = read_cells(shared_data / "tiles" / "brecahad" / "10015-cells.csv")
    assert len(cells) == 243
    assert not cell_regions(cells, slide_mpp=0.25).regions.is_empty
    assert cell_regions(cells, slide_mpp=1.0).regions.is_empty


def test_cells_from_points_and_outlines(tmp_path: Path) -> None:
    shapes = [
        {"type": "Point", "coordinates": [3, 4]},
        {"type": "MultiPoint", "coordinates": [[7, 8], [9, 1]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 2], [0, 2], [0, 0]]]},
    ]
    features = [{"type": "Feature", "geometry": shape} for shape in shapes]
    path = written(tmp_path, "c.geojson", json.dumps(features))
    assert read_cells(path).tolist() == [[3, 4], [7, 8], [9, 1], [2, 1]]


def test_a_table_without_cells_is_empty(tmp_path: Path) -> None:
    assert read_cells(written(tmp_path, "c.csv", "x,y\n")).shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.csv", "a,b\n1,2\n", "no columns"),
        ("c.csv", "", "no columns"),
        ("c.csv", "x,y\n1,2\n3\n", "line 3 holds"),
        ("c.csv", "x,y\n1,nan\n", "lies on no slide"),
        ("c.csv", "x,y\n1,1e7\n", "lies on no slide"),
        ("c.csv", 'x,y\n"1,2\n', "no CSV"),
        ("c.json", '[{"geometry": {"type": "LineString"}}]', "/0/geometry"),
        ("c.json", '[{"geometry": {"type": "Point", "coordinates": 3}}]', "/0/geometry"),
        ("c.json", '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0]]]}}]', "no outline"),
    ],
)
def test_senseless_cells_are_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(AnnotationError, match=reason) as caught:
        read_cells(written(tmp_path, name, text))
    assert caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no file"):
        read_cells(tmp_path / "cells.csv")
