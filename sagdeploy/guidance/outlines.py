"""Outlines drawn in ASAP or QuPath, read as rings of level-0 points from untrusted text.

No geometry is computed here: which rings make up a region is a matter of `annotations`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse
from numpy.typing import NDArray

from sagdeploy.errors import AnnotationError

HOLE_GROUPS = ("_2", "normal")
"""ASAP groups taken out of the regions: Camelyon16's holes, Camelyon17's normal tissue."""

AREA_TYPES = ("Polygon", "Rectangle", "Spline")
"""ASAP's types that enclose something; a spline is read as the polygon of its points."""

LIMITS_L0 = (-10_000.0, 400_000.0)
"""Coordinates of the largest slide, and some room for a stroke that left it."""

MAX_DEPTH = 32
"""Elements of an XML file inside one another; ASAP nests five deep."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One drawn area."""

    label: str
    """Its group in ASAP, its class in QuPath; empty where it has none."""

    rings_l0: tuple[NDArray[np.float64], ...]
    """Shell, then holes; each (K, 2) x, y."""

    is_hole: bool
    """Whether it is taken out of the regions that others draw."""


def parse_asap(data: bytes) -> tuple[list[Outline], int]:
    """Outlines of an ASAP XML file, and how many annotations enclose nothing."""
    outlines = []
    skipped = 0
    for element in elements(data, root="ASAP_Annotations", tag="Annotation"):
        points = [(point.get("X"), point.get("Y")) for point in element.iter("Coordinate")]
        if element.get("Type") not in AREA_TYPES or len(points) < 3:
            skipped += 1
            continue
        group = element.get("PartOfGroup") or "None"
        label = "" if group == "None" else group
        ring = _ring(points, f"annotation {element.get('Name')!r}")
        outlines.append(Outline(label, (ring,), is_hole=label.lower() in HOLE_GROUPS))
    return outlines, skipped


def parse_geojson(data: bytes) -> tuple[list[Outline], int]:
    """Outlines of a GeoJSON file, and how many objects are no annotated areas."""
    outlines = []
    skipped = 0
    for where, feature in features(data):
        found = list(_polygons(where, feature)) if _is_annotation(feature) else []
        outlines += found
        skipped += not found
    return outlines, skipped


def features(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each feature of a GeoJSON file with the JSON pointer to it."""
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise AnnotationError("is nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        raise AnnotationError(f"is not valid JSON: {error}") from error
    pointer = ""
    if isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    elif isinstance(content, dict):
        pointer, content = "/features", content.get("features")
    if not isinstance(content, list):
        raise AnnotationError("is neither a FeatureCollection nor an array of features")
    for index, feature in enumerate(content):
        if not isinstance(feature, dict):
            raise AnnotationError(f"{pointer}/{index} is no feature")
        yield f"{pointer}/{index}", feature


def point_l0(point: Any, where: str) -> tuple[float, float]:
    """x, y of a position that may lie on a slide; AnnotationError names `where` otherwise."""
    try:
        x, y = float(point[0]), float(point[1])
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise AnnotationError(f"{where} holds {str(point)[:60]}, which is no x, y") from error
    low, high = LIMITS_L0
    if not (low <= x <= high and low <= y <= high):  # NaN fails too
        raise AnnotationError(f"{where} holds the point ({x:g}, {y:g}), which lies on no slide")
    return x, y


def elements(data: bytes, *, root: str, tag: str) -> Iterator[Element]:
    """Each element called `tag` of an XML file, emptied once it is done with."""
    depth = 0
    try:
        for event, element in iterparse(BytesIO(data), ("start", "end"), forbid_dtd=True):
            if depth == 0 and element.tag != root:
                raise AnnotationError(f"is {element.tag[:40]!r}, not {root}")
            depth += 1 if event == "start" else -1
            if depth > MAX_DEPTH:
                raise AnnotationError("is nested too deeply")
            if event == "end" and element.tag == tag:
                yield element
                element.clear()
    except DefusedXmlException as error:
        raise AnnotationError("declares a document type or entities, which is unsafe") from error
    except (ParseError, ValueError, LookupError) as error:  # also unknown or broken encodings
        raise AnnotationError(f"is not valid XML: {error}") from error


def _polygons(where: str, feature: dict[str, Any]) -> Iterator[Outline]:
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if not isinstance(geometry, dict) or kind not in ("Polygon", "MultiPolygon"):
        return
    where = f"{where}/geometry/coordinates"
    parts = geometry.get("coordinates")
    for part in [parts] if kind == "Polygon" else _list(parts, where):
        rings = tuple(_ring(_list(ring, where), where) for ring in _list(part, where))
        if rings and len(rings[0]) >= 3:
            holes = tuple(ring for ring in rings[1:] if len(ring) >= 3)
            yield Outline(_class_name(feature), (rings[0], *holes), is_hole=False)


def _is_annotation(feature: dict[str, Any]) -> bool:
    """Whether QuPath would show it as an annotation of a class that it does not ignore."""
    kind = _properties(feature).get("objectType", "annotation")
    return kind == "annotation" and not _class_name(feature).endswith("*")


def _class_name(feature: dict[str, Any]) -> str:
    classification = _properties(feature).get("classification")
    name = classification.get("name") if isinstance(classification, dict) else None
    return name if isinstance(name, str) else ""


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _ring(points: list[Any], where: str) -> NDArray[np.float64]:
    return np.array([point_l0(point, where) for point in points], np.float64).reshape(-1, 2)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(f"{where} is no list of points")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
