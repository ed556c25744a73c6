"""What is written for QuPath keeps QuPath's reading rules, as a JSON Schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from shapely import Polygon
from shapely.geometry import shape

from sagdeploy.guidance.annotations import read_annotations, write_geojson
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report import geojson
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.slides.tiling import Tiles

RULES = Draft202012Validator(
    json.loads(Path(__file__).with_name("qupath.schema.json").read_text()),
    format_checker=Draft202012Validator.FORMAT_CHECKER,
)


def checked(path: Path) -> list[dict[str, Any]]:
    """The features of a file that QuPath reads; it is drag and drop, so by its suffix."""
    assert path.suffix == ".geojson"
    collection = json.loads(path.read_text())
    RULES.validate(collection)
    features: list[dict[str, Any]] = collection["features"]
    ids = [feature["id"] for feature in features if "id" in feature]
    assert len(set(ids)) == len(ids)
    for feature in features:
        outline = shape(feature["geometry"])
        assert outline.is_valid
        rings = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for ring in rings)
    return features


@pytest.mark.parametrize("origin", ["bounds", "full"])
def test_attention_is_tiles_that_qupath_reads(
    make_prediction: Callable[..., Prediction], tmp_path: Path, origin: geojson.Origin
) -> None:
    prediction = make_prediction(scales=2)
    geojson.write_geojson(tmp_path / "attention.geojson", prediction, origin=origin)
    features = checked(tmp_path / "attention.geojson")
    assert {feature["properties"]["objectType"] for feature in features} == {"tile"}
    corners = np.array([f["geometry"]["coordinates"][0][0] for f in features])
    shift = (20, 30) if origin == "bounds" else (0, 0)
    assert corners.tolist() == np.concatenate([t.xy_l0 - shift for t in prediction.tiles]).tolist()


def test_merged_regions_with_holes_are_read_as_well(
    make_prediction: Callable[..., Prediction], tmp_path: Path
) -> None:
    x, y = np.arange(100) * 224, np.arange(60) * 224
    tiles = Tiles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (224, 224), (224, 224), 0.5)
    odds = 1.1 + np.cos(np.hypot(*(tiles.xy_l0 / [1500, 900] - 7).T)).astype(np.float32)
    third = np.full(3, 1 / 3, np.float32)
    prediction = make_prediction(
        tiles=(tiles,),
        diagnosis=Diagnosis(third, np.zeros(3, np.float32), (odds / odds.sum(),)),
        tissue_coverage=(np.ones(len(tiles)),),
    )
    geojson.write_geojson(tmp_path / "attention.geojson", prediction)
    features = checked(tmp_path / "attention.geojson")
    assert len(features) < len(tiles) / 10
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in features)


def test_outlines_are_annotations_that_qupath_and_we_read(tmp_path: Path) -> None:
    hole = [(40, 40), (60, 40), (60, 70)]
    lesion = Polygon([(10, 20), (200, 25), (190, 140), (15, 130)], [hole])
    write_geojson(tmp_path / "lesion.geojson", [lesion], label="Tumor")
    (feature,) = checked(tmp_path / "lesion.geojson")
    assert feature["properties"]["objectType"] == "annotation"
    assert read_annotations(tmp_path / "lesion.geojson").regions.equals(lesion)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "7"},
        {"properties": {"objectType": "patch"}},
        {"properties": {"objectType": "tile", "measurements": [{"name": "a", "value": 1}]}},
        {"properties": {"objectType": "tile", "metadata": {"mpp": 0.5}}},
    ],
)
def test_the_rules_refuse_what_qupath_would_not_read(wrong: dict[str, Any]) -> None:
    square = [[[0, 0], [1, 0], [1, 1], [0, 0]]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": square},
        "properties": {"objectType": "tile"},
    }
    RULES.validate({"type": "FeatureCollection", "features": [feature]})
    with pytest.raises(ValidationError):
        RULES.validate({"type": "FeatureCollection", "features": [feature | wrong]})
