import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon, box

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.annotations import (
    MAX_BYTES,
    join,
    read_annotations,
    write_asap,
    write_geojson,
)

GOLDEN = Path(__file__).parent / "golden"

# Wider than high, off the diagonal, with a hole off its middle.
REGIONS = MultiPolygon(
    [
        Polygon(
            [(100, 50), (400, 50), (400, 200.5), (100, 200)],
            [[(120, 60), (180, 60), (180, 90)]],
        ),
        box(600, 300, 650, 310),
    ]
)
SQUARE = [[10, 20], [40, 20], [40, 30], [10, 30], [10, 20]]


def asap(*annotations: str) -> str:
    body = "".join(annotations)
    return f"<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>"


def outline(points: Sequence[Sequence[float]], group: str = "_0", kind: str = "Polygon") -> str:
    coordinates = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points)
    )
    return (
        f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def feature(kind: str, coordinates: object, **properties: object) -> dict[str, object]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "parts", "holes", "area"),
    [
        ("tumor_001.xml", 2, 0, 11_377_414.5),
        ("tumor_003.xml", 13, 1, 7_068_648.7),
        ("tumor_101.xml", 10, 0, 192_068_314.2),
        ("tumor_110.xml", 19, 19, 1_052_749_288.3),
    ],
)
def test_camelyon16_outlines_are_read_without_their_holes(
    shared_data: Path, name: str, parts: int, holes: int, area: float
) -> None:
    annotations = read_annotations(shared_data / "annotations" / name)
    assert annotations.regions.is_valid
    assert len(annotations.regions.geoms) == parts
    assert sum(len(part.interiors) for part in annotations.regions.geoms) == holes
    assert annotations.regions.area == pytest.approx(area, abs=1)
    assert annotations.labels == ("_0",)


def test_holes_of_a_real_file_are_subtracted(shared_data: Path, tmp_path: Path) -> None:
    text = (shared_data / "annotations" / "tumor_110.xml").read_text()
    without = read_annotations(written(tmp_path, "x.xml", text.replace('"_2"', '"_0"')))
    with_holes = read_annotations(shared_data / "annotations" / "tumor_110.xml")
    assert with_holes.regions.area < without.regions.area


def test_the_official_group_of_decimals_is_read(shared_data: Path) -> None:
    path = shared_data / "annotations" / "tumor_001_official_fragment.xml"
    annotations = read_annotations(path)
    assert annotations.labels == ("Tumor",)
    assert annotations.regions.bounds == (71821.8984, 131761, 71924.3984, 131926)


@pytest.mark.parametrize("suffix", [".xml", ".geojson"])
def test_real_outlines_survive_writing(shared_data: Path, tmp_path: Path, suffix: str) -> None:
    regions = read_annotations(shared_data / "annotations" / "tumor_110.xml").regions
    path = tmp_path / f"again{suffix}"
    (write_asap if suffix == ".xml" else write_geojson)(path, regions)
    assert read_annotations(path).regions.symmetric_difference(regions).area < 0.1


corners = st.integers(-200, 1000).map(lambda tenths: tenths / 10)
boxes = st.tuples(corners, corners, st.integers(1, 300), st.integers(1, 300)).map(
    lambda b: box(b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(boxes, min_size=1, max_size=5), boxes)
def test_any_regions_survive_geojson(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Polygon], hole: Polygon
) -> None:
    regions = join(drawn).difference(hole)
    regions = regions if isinstance(regions, MultiPolygon) else MultiPolygon([regions])
    path = tmp_path_factory.mktemp("g") / "a.geojson"
    write_geojson(path, regions)
    assert read_annotations(path).regions.symmetric_difference(regions).area < 1e-6


@given(st.lists(boxes, min_size=1, max_size=4), st.lists(boxes, max_size=3))
def test_asap_means_drawn_less_holes(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Polygon], holes: list[Polygon]
) -> None:
    def rings(polygons: list[Polygon], group: str) -> list[str]:
        return [outline(list(p.exterior.coords), group) for p in polygons]

    text = asap(*rings(holes, "_2"), *rings(drawn, "_1"))
    path = written(tmp_path_factory.mktemp("a"), "a.xml", text)
    expected = join(drawn).area - join(drawn).intersection(join(holes)).area
    assert read_annotations(path).regions.area == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["regions.xml", "regions.geojson"])
def test_written_text_is_the_golden_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (write_asap if path.suffix == ".xml" else write_geojson)(path, REGIONS)
    assert path.read_text() == (GOLDEN / name).read_text()


def test_asap_refuses_a_region_inside_a_hole(tmp_path: Path) -> None:
    ring = box(0, 0, 90, 60).difference(box(10, 10, 50, 50))
    with pytest.raises(AnnotationError, match="inside a hole"):
        write_asap(tmp_path / "x.xml", [ring, box(20, 20, 30, 35)])
    assert list(tmp_path.iterdir()) == []


def test_asap_groups_none_and_normal(tmp_path: Path) -> None:
    inner = [[20, 20], [30, 20], [30, 30], [20, 30]]
    path = written(tmp_path, "x.xml", asap(outline(SQUARE, "None"), outline(inner, "normal")))
    annotations = read_annotations(path)
    assert annotations.labels == ()
    assert annotations.regions.area == 300 - 100


def test_asap_dots_and_strokes_are_counted_out(tmp_path: Path) -> None:
    dot = outline([[5, 5]], kind="Dot")
    line = outline([[5, 5], [9, 9]])
    annotations = read_annotations(written(tmp_path, "x.xml", asap(outline(SQUARE), dot, line)))
    assert annotations.skipped == 2
    assert annotations.regions.equals(Polygon(SQUARE))


def test_a_bow_tie_keeps_both_wings(tmp_path: Path) -> None:
    path = written(tmp_path, "x.xml", asap(outline([[0, 0], [20, 10], [20, 0], [0, 10]])))
    regions = read_annotations(path).regions
    assert regions.is_valid
    assert regions.area == pytest.approx(100)


@pytest.mark.parametrize("bare", [True, False])
def test_geojson_as_qupath_exports_it(tmp_path: Path, bare: bool) -> None:
    hole = [[15, 22], [20, 22], [20, 25], [15, 22]]
    far = [[100, 0], [102, 0], [102, 5], [100, 0]]
    features = [
        feature("Polygon", [SQUARE, hole], classification={"name": "Tumor"}),
        feature("MultiPolygon", [[far]], objectType="annotation"),
        feature("Point", [3, 4]),
        feature("LineString", [[3, 4], [5, 6]]),
        feature("Polygon", [SQUARE], objectType="tile"),
        feature("Polygon", [SQUARE], classification={"name": "Ignore*"}),
        {"type": "Feature", "geometry": None, "properties": None},
    ]
    content = features if bare else {"type": "FeatureCollection", "features": features}
    annotations = read_annotations(written(tmp_path, "x.geojson", json.dumps(content)))
    assert annotations.regions.area == 300 - 7.5 + 5
    assert annotations.labels == ("Tumor",)
    assert annotations.skipped == 5


def test_written_geojson_has_what_qupath_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    write_geojson(path, REGIONS, label="Melanoma")
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    assert len({item["id"] for item in content["features"]}) == 2
    for item in content["features"]:
        assert item["properties"]["objectType"] == "annotation"
        assert item["properties"]["classification"] == {"name": "Melanoma", "color": [200, 0, 0]}


def test_written_asap_is_xml_in_two_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    write_asap(path, REGIONS)
    groups = [item.get("PartOfGroup") for item in ElementTree.parse(path).iter("Annotation")]
    assert groups == ["_0", "_0", "_2"]


LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + asap()
XXE = (
    '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><ASAP_Annotations>&f;</ASAP_Annotations>'
)
HOSTILE_XML = {
    "entities": (LAUGHS, "unsafe"),
    "external entity": (XXE, "unsafe"),
    "bare dtd": ("<!DOCTYPE ASAP_Annotations>" + asap(), "unsafe"),
    "deep": ("<ASAP_Annotations>" + "<a>" * 100_000, "nested too deeply"),
    "not xml": ("hello", "not valid XML"),
    "cut": (asap(outline(SQUARE))[:-30], "not valid XML"),
    "another root": ("<html/>", "not ASAP_Annotations"),
    "nan": (asap(outline([[0, 0], [float("nan"), 1], [5, 5]])), "lies on no slide"),
    "infinite": (asap(outline([[0, 0], [float("inf"), 1], [5, 5]])), "lies on no slide"),
    "too far": (asap(outline([[0, 0], [400_001, 1], [5, 5]])), "lies on no slide"),
    "far left": (asap(outline([[0, 0], [-20_000, 1], [5, 5]])), "lies on no slide"),
    "no number": (asap(outline(SQUARE)).replace('X="10"', 'X="ten"'), "no x, y"),
    "no x": (asap(outline(SQUARE)).replace('X="10"', ""), "no x, y"),
    "unknown encoding": ('<?xml version="1.0" encoding="ebcdix"?>' + asap(), "not valid XML"),
}
HOSTILE_JSON = {
    "nan": ('[{"geometry": {"type": "Polygon", "coordinates": [[[0, NaN]]]}}]', "NaN"),
    "huge": ('[{"geometry": {"type": "Polygon", "coordinates": [[[0, 1e999]]]}}]', "no slide"),
    "long": (f"[{'9' * 5000}]", "not valid JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "cut": ('{"type": "FeatureCollection", "features": [', "not valid JSON"),
    "no features": ('{"type": "Topology"}', "neither"),
    "a number": ("3", "neither"),
    "no feature": ("[3]", "/0 is no feature"),
    "flat": (json.dumps([feature("Polygon", SQUARE)]), "/0/geometry/coordinates"),
    "not utf-8": ("[\udcff]", "not valid JSON"),
}


@pytest.mark.parametrize("name", HOSTILE_XML)
def test_hostile_xml_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, reason = HOSTILE_XML[name]
    path = written(tmp_path, "x.xml", text)
    with pytest.raises(AnnotationError, match=reason) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, reason = HOSTILE_JSON[name]
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AnnotationError, match=reason) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)


def test_an_oversized_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(AnnotationError, match="more than"):
        read_annotations(path)


@pytest.mark.parametrize("name", ["missing.xml", "folder.xml", "x.ndpa"])
def test_what_is_no_annotation_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.xml").mkdir()
    with pytest.raises(AnnotationError):
        read_annotations(tmp_path / name)


@given(st.binary(max_size=200), st.sampled_from([".xml", ".json"]))
def test_noise_is_refused_and_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("n") / f"x{suffix}"
    path.write_bytes(b"<" + data)
    with pytest.raises(AnnotationError):
        read_annotations(path)
