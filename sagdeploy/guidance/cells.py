"""Groups of cells as regions: DBSCAN on cell centres, a convex hull around each cluster.

Section 2.3 of the paper, whose eps of 20 and 5 neighbours are pixels of a 10x cell map.
"""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from sagdeploy.errors import AnnotationError, MissingExtraError
from sagdeploy.guidance.annotations import Annotations, join, read_capped
from sagdeploy.guidance.outlines import features, point_l0

COLUMNS = (("x_l0", "y_l0"), ("x", "y"))
"""Names of the two columns that place a cell, in order of preference."""

EPS_UM, MIN_CELLS = 20.0, 5
"""How near neighbours are, and how many make a cluster go on, a cell itself among them.

The paper's 20 pixels are meant at 10x, a micron each: at full resolution they find nothing."""

CELL_RADIUS_UM = 5.0
"""Half the width given to cells in a row, which have no hull: about that of a nucleus."""


def read_cells(path: Path) -> NDArray[np.float64]:
    """Centres of cells in a CSV table or a GeoJSON file, (N, 2) x, y at level 0.

    A CSV needs columns x_l0, y_l0 or x, y. A GeoJSON may hold points or outlines, whose
    centroids count. AnnotationError for what is unreadable or unsafe.
    """
    try:
        data = read_capped(path)
        points = list(_csv_points(data) if path.suffix.lower() == ".csv" else _points(data))
    except AnnotationError as error:
        hint = error.hint or "save it as a CSV with columns x_l0,y_l0, or as GeoJSON points"
        raise AnnotationError(f"cells: {error}", hint=hint, place=str(path)) from error
    return np.array(points, np.float64).reshape(-1, 2)


def cell_regions(
    xy_l0: NDArray[np.float64],
    *,
    slide_mpp: float,
) -> Annotations:
    """Convex hulls of the clusters of cells, without the cells that stand alone.

    xy_l0: (N, 2) centres, level-0 pixels of a slide scanned at `slide_mpp`
    Cells in one straight line get the width of a nucleus, not none: melanocytes in a row
    along the skin's basal layer are a finding. MissingExtraError without scikit-learn.
    """
    if len(xy_l0) == 0:
        return Annotations(shapely.MultiPolygon())
    clusters = _clusters(xy_l0, eps_l0=EPS_UM / slide_mpp)
    hulls = [
        _hull(xy_l0[clusters == cluster], radius_l0=CELL_RADIUS_UM / slide_mpp)
        for cluster in range(clusters.max() + 1)
    ]
    return Annotations(join(hulls))


def _clusters(xy_l0: NDArray[np.float64], *, eps_l0: float) -> NDArray[np.int64]:
    """Cluster of each cell, (N,); -1 for cells in none."""
    try:
        from sklearn.cluster import DBSCAN  # only training has it
    except ImportError as error:
        raise MissingExtraError(
            "clustering cells needs scikit-learn", hint="pip install 'sagdeploy[train]'"
        ) from error
    labels: NDArray[np.int64] = DBSCAN(eps=eps_l0, min_samples=MIN_CELLS).fit_predict(xy_l0)
    return labels


def _hull(xy_l0: NDArray[np.float64], *, radius_l0: float) -> shapely.Polygon:
    hull = shapely.MultiPoint(xy_l0).convex_hull
    return hull if isinstance(hull, shapely.Polygon) else hull.buffer(radius_l0)


def _csv_points(data: bytes) -> Iterator[tuple[float, float]]:
    try:
        rows = csv.DictReader(StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        names = rows.fieldnames or []
        columns = next((pair for pair in COLUMNS if set(pair) <= set(names)), None)
        if columns is None:
            raise AnnotationError("has no columns x_l0, y_l0")
        x, y = columns
        for row in rows:
            yield point_l0((row[x], row[y]), f"line {rows.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"is no CSV table: {error}") from error


def _points(data: bytes) -> Iterator[tuple[float, float]]:
    for where, feature in features(data):
        geometry = feature.get("geometry")
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        coordinates: Any = geometry.get("coordinates") if isinstance(geometry, dict) else None
        where = f"{where}/geometry"
        if kind == "Point":
            yield point_l0(coordinates, where)
        elif kind == "MultiPoint" and isinstance(coordinates, list):
            yield from (point_l0(point, where) for point in coordinates)
        elif kind == "Polygon" and isinstance(coordinates, list) and coordinates:
            yield _centroid(coordinates[0], where)
        else:
            raise AnnotationError(f"{where} is {kind!r}, neither a point nor an outline")


def _centroid(ring: Any, where: str) -> tuple[float, float]:
    if not isinstance(ring, list) or len(ring) < 3:
        raise AnnotationError(f"{where} is no outline")
    centre = shapely.Polygon([point_l0(point, where) for point in ring]).centroid
    return centre.x, centre.y
