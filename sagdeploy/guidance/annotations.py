"""Regions that a pathologist outlined on a slide, read from and written for ASAP and QuPath."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LinearRing, MultiPolygon, Polygon

from sagdeploy.errors import AnnotationError
from sagdeploy.files import write_bytes
from sagdeploy.guidance.outlines import Outline, parse_asap, parse_geojson

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024**2
"""A larger file is refused unread; Camelyon16's largest has under 2 MB."""

PARSERS = {".xml": parse_asap, ".geojson": parse_geojson, ".json": parse_geojson}
DECIMALS = 4
"""Of written coordinates, as in Camelyon16's files."""

COLOUR = (200, 0, 0)
ASAP_GROUPS = "".join(
    f'\t\t<Group Name="{name}" PartOfGroup="None" Color="{colour}">\n'
    "\t\t\t<Attributes />\n\t\t</Group>\n"
    for name, colour in [("_0", "#C80000"), ("_2", "#64FE2E")]
)
NAMESPACE = UUID("6d9f4f5e-1c7b-5c58-9a86-3b1f0f6a2c51")
"""Of the ids in written GeoJSON, so that the same region has the same id."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """The outlined regions of one slide."""

    regions: MultiPolygon
    """Valid and without overlaps, level-0 pixels of the whole slide; may be empty."""

    labels: tuple[str, ...] = ()
    """Names of the groups or classes that the regions belong to, sorted."""

    skipped: int = 0
    """Objects of the file that enclose no region: points, lines, ignored classes."""


def read_annotations(path: Path) -> Annotations:
    """Regions of an ASAP XML or a QuPath GeoJSON file, chosen by its suffix.

    Self-intersections are repaired, overlaps joined, and the group `_2` taken out.
    Coordinates are level-0 pixels of the whole slide: where a slide has bounds, it must be
    added to QuPath with `--no-crop`. AnnotationError for what is unreadable or unsafe.
    """
    parse = PARSERS.get(path.suffix.lower())
    if parse is None:
        raise AnnotationError(
            f"annotations of type {path.suffix or 'no suffix'!r} are not known",
            hint="export them as ASAP .xml or QuPath .geojson",
            place=str(path),
        )
    try:
        outlines, skipped = parse(read_capped(path))
    except AnnotationError as error:
        hint = error.hint or "export the annotations of this slide again"
        raise AnnotationError(f"annotations: {error}", hint=hint, place=str(path)) from error
    if skipped:
        logger.warning("%s: %d objects enclose no region and were left out", path.name, skipped)
    return Annotations(
        regions=_regions(outlines),
        labels=tuple(sorted({o.label for o in outlines if o.label and not o.is_hole})),
        skipped=skipped,
    )


def read_capped(path: Path) -> bytes:
    """Bytes of a regular file of reasonable size; AnnotationError otherwise."""
    try:
        if not path.is_file():
            raise AnnotationError("is no file", hint="mend the path in the cohort table")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise AnnotationError(f"has {size:,} bytes, more than {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"cannot be read: {error.strerror}") from error


def polygons_of(geometry: shapely.Geometry) -> list[Polygon]:
    """The polygons in a geometry of any kind; its points, lines and empty parts are dropped."""
    return [
        polygon
        for part in shapely.get_parts(geometry)
        for polygon in (polygons_of(part) if hasattr(part, "geoms") else [part])
        if isinstance(polygon, Polygon) and polygon.area > 0
    ]


def join(areas: Iterable[Polygon]) -> MultiPolygon:
    """The union of polygons, repaired where they cross themselves."""
    valid = [shapely.make_valid(area, method="structure", keep_collapsed=False) for area in areas]
    return MultiPolygon(polygons_of(shapely.union_all(valid)))


def outlined(outlines_l0: Iterable[NDArray[np.float64]]) -> MultiPolygon:
    """Regions inside outlines, given as (V, 2) vertices."""
    return join(Polygon(outline) for outline in outlines_l0)


def write_asap(path: Path, polygons: Iterable[Polygon] | MultiPolygon) -> None:
    """Write regions as ASAP XML with Camelyon16's groups: `_0` regions, `_2` their holes.

    AnnotationError where a region lies in the hole of another: these groups cannot say so.
    """
    regions = _canonical(polygons)
    shells = [part.exterior for part in regions.geoms]
    holes = [ring for part in regions.geoms for ring in part.interiors]
    if join(Polygon(ring) for ring in holes).intersection(regions).area > 0:
        raise AnnotationError(
            "ASAP's groups cannot hold a region inside a hole",
            hint="write .geojson",
            place=str(path),
        )
    drawn = [*(("_0", ring) for ring in shells), *(("_2", ring) for ring in holes)]
    body = "".join(_asap_annotation(index, *item) for index, item in enumerate(drawn))
    text = (
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n'
        f"\t<Annotations>\n{body}\t</Annotations>\n"
        f"\t<AnnotationGroups>\n{ASAP_GROUPS}\t</AnnotationGroups>\n</ASAP_Annotations>\n"
    )
    write_bytes(path, text.encode())


def write_geojson(
    path: Path, polygons: Iterable[Polygon] | MultiPolygon, *, label: str = "Tumor"
) -> None:
    """Write regions as GeoJSON annotations of one class, as QuPath reads them."""
    features = ",\n".join(_feature(polygon, label) for polygon in _canonical(polygons).geoms)
    text = f'{{"type": "FeatureCollection", "features": [\n{features}\n]}}\n'
    write_bytes(path, text.encode())


def _regions(outlines: Sequence[Outline]) -> MultiPolygon:
    drawn = join(_polygon(outline) for outline in outlines if not outline.is_hole)
    holes = join(_polygon(outline) for outline in outlines if outline.is_hole)
    return MultiPolygon(polygons_of(drawn.difference(holes)))


def _polygon(outline: Outline) -> Polygon:
    shell, *holes = outline.rings_l0
    return Polygon(shell, holes)


def _canonical(polygons: Iterable[Polygon] | MultiPolygon) -> MultiPolygon:
    """Their union, its parts and points in an order that no version of GEOS changes."""
    parts = polygons.geoms if isinstance(polygons, MultiPolygon) else polygons
    return join(parts).normalize()


def _points(ring: LinearRing) -> list[tuple[float, float]]:
    return [(round(x, DECIMALS), round(y, DECIMALS)) for x, y in ring.coords]


def _asap_annotation(index: int, group: str, ring: LinearRing) -> str:
    points = "".join(
        f'\t\t\t\t<Coordinate Order="{order}" X="{x:.10g}" Y="{y:.10g}" />\n'
        for order, (x, y) in enumerate(_points(ring)[:-1])  # ASAP closes rings itself
    )
    return (
        f'\t\t<Annotation Name="Annotation {index}" Type="Polygon" '
        f'PartOfGroup="{group}" Color="#F4FA58">\n'
        f"\t\t\t<Coordinates>\n{points}\t\t\t</Coordinates>\n\t\t</Annotation>\n"
    )


def _feature(polygon: Polygon, label: str) -> str:
    rings = [_points(ring) for ring in (polygon.exterior, *polygon.interiors)]
    feature = {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE, f"{label} {rings}")),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": label, "color": COLOUR},
        },
    }
    return json.dumps(feature, allow_nan=False, ensure_ascii=False)
