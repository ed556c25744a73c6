"""Cells marked in Hamamatsu's NDP.view, whose NDPA files note places in nanometres."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import shapely
from numpy.typing import NDArray

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.annotations import read_capped
from sagdeploy.guidance.outlines import elements, point_l0

NM_PER_UM = 1000.0


def read_ndpa_cells(
    path: Path,
    *,
    size_l0: tuple[int, int],
    slide_mpp: float,
    centre_offset_nm: tuple[float, float] | None,
) -> NDArray[np.float64]:
    """Centres of the marked cells, (N, 2) x, y at level 0.

    Pins and circles count by their centre, outlines by their centroid.
    centre_offset_nm: of the slide, without which NDPA has no place on it
    AnnotationError for what is unreadable or unsafe.
    """
    if centre_offset_nm is None:
        raise AnnotationError(
            "the slide does not say where on the glass it lies",
            hint="NDPA goes with an .ndpi slide; for another one save the cells as CSV",
            place=str(path),
        )
    try:
        xy_nm = list(_marked(read_capped(path)))
        scale = NM_PER_UM * slide_mpp
        points = [
            point_l0(
                (
                    (x - centre_offset_nm[0]) / scale + size_l0[0] / 2,
                    (y - centre_offset_nm[1]) / scale + size_l0[1] / 2,
                ),
                f"annotation {index}",
            )
            for index, (x, y) in enumerate(xy_nm, start=1)
        ]
    except AnnotationError as error:
        hint = error.hint or "save it once more in NDP.view"
        raise AnnotationError(f"cells: {error}", hint=hint, place=str(path)) from error
    return np.array(points, np.float64).reshape(-1, 2)


def _marked(data: bytes) -> Iterator[tuple[float, float]]:
    """x, y in nanometres of what is marked, in the file's order."""
    for index, element in enumerate(elements(data, root="annotations", tag="annotation"), start=1):
        where = f"annotation {index}"
        points = [_xy(point, where) for point in element.iter("point")]
        if len(points) >= 3:
            centre = shapely.Polygon(points).centroid
            yield centre.x, centre.y
        elif element.find("x") is not None:
            yield _xy(element, where)
        else:
            raise AnnotationError(f"{where} is neither a point nor an outline")


def _xy(element: Element, where: str) -> tuple[float, float]:
    texts = [element.findtext(axis) or "" for axis in "xy"]
    try:
        x, y = (float(text) for text in texts)
    except ValueError as error:
        raise AnnotationError(f"{where} holds {str(texts)[:60]}, which is no x, y") from error
    return x, y
