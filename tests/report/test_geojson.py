import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from shapely import union_all
from shapely.geometry import shape

from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report import geojson
from sagdeploy.report.geojson import MERGE_ABOVE, features, write_geojson
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.slides.tiling import Tiles

HOTTEST_XY_L0 = [300, 100]
BOUNDS_XY_L0 = [20, 30]


def corners(feature: dict[str, Any]) -> list[list[int]]:
    ring: list[list[int]] = feature["geometry"]["coordinates"][0]
    return ring


def hottest(prediction: Prediction, **options: Any) -> dict[str, Any]:
    found = features(prediction, **options)
    return max(found, key=lambda feature: feature["properties"]["measurements"]["attention"])


def large(prediction: Callable[..., Prediction]) -> Prediction:
    """15,300 tiles with a smooth map."""
    x, y = np.arange(170) * 224, np.arange(90) * 224
    tiles = Tiles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (224, 224), (224, 224), 0.5)
    odds = np.exp(-((tiles.xy_l0 / [9000, 5000] - 1) ** 2).sum(axis=1)).astype(np.float32)
    diagnosis = Diagnosis(
        np.full(3, 1 / 3, np.float32), np.zeros(3, np.float32), (odds / odds.sum(),)
    )
    return prediction(tiles=(tiles,), diagnosis=diagnosis, tissue_coverage=(np.ones(len(tiles)),))


def test_tiles_lie_relative_to_the_bounds_as_in_qupath(prediction: Prediction) -> None:
    x, y = HOTTEST_XY_L0[0] - BOUNDS_XY_L0[0], HOTTEST_XY_L0[1] - BOUNDS_XY_L0[1]
    square = [[x, y], [x + 100, y], [x + 100, y + 100], [x, y + 100], [x, y]]
    assert corners(hottest(prediction)) == square
    assert corners(hottest(prediction, origin="full"))[0] == HOTTEST_XY_L0


def test_a_feature_is_what_qupath_reads(prediction: Prediction) -> None:
    feature = hottest(prediction)
    assert UUID(feature["id"]).version == 5
    properties = feature["properties"]
    assert properties["objectType"] == "tile"
    assert properties["classification"]["name"] == "Attention: top 1 %"
    assert all(0 <= channel <= 255 for channel in properties["classification"]["color"])
    assert properties["measurements"]["percentile"] == 100
    assert all(isinstance(value, str) for value in properties["metadata"].values())


def test_the_attention_of_all_regions_sums_to_one(
    make_prediction: Callable[..., Prediction],
) -> None:
    for prediction in (make_prediction(), large(make_prediction)):
        measurements = [f["properties"]["measurements"] for f in features(prediction)]
        assert sum(m["attention"] for m in measurements) == pytest.approx(1, abs=1e-5)
        assert sum(m["tiles"] for m in measurements) == len(prediction.tiles[0])


def test_ids_are_distinct_and_the_same_each_time(
    make_prediction: Callable[..., Prediction],
) -> None:
    prediction = make_prediction(scales=2)
    ids = [feature["id"] for feature in features(prediction)]
    assert len(set(ids)) == sum(map(len, prediction.tiles))
    assert ids == [feature["id"] for feature in features(prediction)]


def test_magnifications_have_classes_of_their_own(
    make_prediction: Callable[..., Prediction],
) -> None:
    names = {f["properties"]["classification"]["name"] for f in features(make_prediction(scales=2))}
    assert {"Attention: top 1 % (mpp 0.5)", "Attention: top 5 % (mpp 0.75)"} <= names


def test_large_maps_are_merged_without_losing_area(
    make_prediction: Callable[..., Prediction],
) -> None:
    prediction = large(make_prediction)
    assert len(prediction.tiles[0]) > MERGE_ABOVE
    merged = [shape(feature["geometry"]) for feature in features(prediction)]
    assert len(merged) < 50
    assert all(outline.is_valid for outline in merged)
    area = sum(outline.area for outline in merged)
    assert area == union_all(merged).area == len(prediction.tiles[0]) * 224**2


def test_the_file_is_one_collection_that_says_where_its_origin_lies(
    prediction: Prediction, tmp_path: Path
) -> None:
    write_geojson(tmp_path / "attention.geojson", prediction)
    collection = json.loads((tmp_path / "attention.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert collection["sagdeploy"]["origin"] == "bounds"
    assert collection["sagdeploy"]["origin_l0"] == BOUNDS_XY_L0
    assert len(collection["features"]) == len(prediction.tiles[0])


def test_the_namespace_never_changes() -> None:
    assert str(geojson.NAMESPACE) == "5f0b1f39-5b8e-5d0e-9c6b-0a5f8d1d7c11"
