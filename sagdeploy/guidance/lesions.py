"""Lesions by the rule of the Camelyon16 challenge: what a detection must hit to count.

The annotated regions are grown by 37.5 um on every side, so that those nearer than 75 um
become one, and their holes are filled. A lesion whose longest diameter is then below 275 um,
200 um before it grew, is a group of isolated tumour cells: to find it is neither right nor
wrong. The challenge's own code does this on an image of about 8 um a pixel and takes the major
axis of an ellipse as the diameter; here it is done on the outlines.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon

from sagdeploy.guidance.annotations import polygons_of

GROWTH_UM = 37.5
ISOLATED_UM = 275.0

NONE = -1
"""In the place of a lesion's number: no lesion."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """The lesions of one slide."""

    outlines: tuple[shapely.Polygon, ...]
    """Grown, at level 0."""

    is_isolated: NDArray[np.bool_]
    """(L,) whether each is a group of isolated tumour cells."""

    def at(self, xy_l0: NDArray[np.float64]) -> NDArray[np.intp]:
        """The lesion at each of (M, 2) points: its number, or NONE. They do not overlap."""
        hit = np.full(len(xy_l0), NONE, np.intp)
        tree = shapely.STRtree(self.outlines)
        points, lesions = tree.query(shapely.points(xy_l0), predicate="intersects")
        hit[points] = lesions
        return hit


def find_lesions(regions: MultiPolygon, *, slide_mpp: float) -> Lesions:
    """The lesions of annotated regions on a slide scanned at `slide_mpp`."""
    grown = polygons_of(regions.buffer(GROWTH_UM / slide_mpp))
    filled = shapely.union_all([shapely.Polygon(polygon.exterior) for polygon in grown])
    outlines = tuple(polygons_of(filled))
    longest_um = np.array([_diameter(outline) * slide_mpp for outline in outlines])
    return Lesions(outlines, longest_um < ISOLATED_UM)


def _diameter(outline: shapely.Polygon) -> float:
    """The longest distance between two points of an outline."""
    corners = shapely.get_coordinates(outline.convex_hull)
    between = corners[:, None] - corners[None]
    return float(np.sqrt((between**2).sum(axis=-1)).max())
