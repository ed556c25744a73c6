"""Attention as GeoJSON that QuPath reads: drag the file onto the slide.

Facts about QuPath (its `QuPathTypeAdapters.java`): ids must be UUIDs, `measurements` is an
object of numbers, `metadata` an object of strings, thousands of regions must be of type
`tile`, and coordinates are level-0 pixels relative to the slide's bounds.
"""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from sagdeploy.files import write_whole
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.regions import Region, merged_regions, single_regions
from sagdeploy.report.scale import BANDS, bands, percentiles
from sagdeploy.slides.tiling import Tiles

Origin = Literal["bounds", "full"]
"""Where (0, 0) lies: at the corner of the slide's bounds, as in QuPath, or of the whole slide."""

MERGE_ABOVE = 5000
"""With more tiles at a magnification, neighbours of one band become one region."""

NAMESPACE = UUID("5f0b1f39-5b8e-5d0e-9c6b-0a5f8d1d7c11")
"""Of the ids, so that the same region of the same result always has the same id."""

Json = dict[str, Any]


def write_geojson(path: Path, prediction: Prediction, *, origin: Origin = "bounds") -> None:
    """Write a prediction's attention as a collection of regions, one at a time."""
    head = json.dumps({"type": "FeatureCollection", "sagdeploy": _about(prediction, origin)})
    with write_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(head[:-1] + ', "features": [')
        for number, feature in enumerate(features(prediction, origin=origin)):
            file.write(("\n" if number == 0 else ",\n") + json.dumps(feature, allow_nan=False))
        file.write("\n]}\n")


def features(prediction: Prediction, *, origin: Origin = "bounds") -> Iterator[Json]:
    """GeoJSON features of all magnifications, one a tile or, on large maps, one a region."""
    magnifications = zip(prediction.tiles, prediction.diagnosis.attention, strict=True)
    return chain.from_iterable(
        _tiles_of(prediction, tiles, attention, origin) for tiles, attention in magnifications
    )


def _tiles_of(
    prediction: Prediction, tiles: Tiles, attention: NDArray[np.float32], origin: Origin
) -> Iterator[Json]:
    percentile = percentiles(attention)
    band = bands(percentile)
    merged = len(tiles) > MERGE_ABOVE
    suffix = f" (mpp {tiles.mpp:g})" if len(prediction.tiles) > 1 else ""
    metadata = {
        "model": f"{prediction.manifest.name} {prediction.manifest.version}",
        "mpp": f"{tiles.mpp:g}",
    }
    for region in merged_regions(tiles, band) if merged else single_regions(tiles):
        colour = BANDS[band[region.rows[0]]]
        geometry = _polygon(region, _origin_l0(prediction, origin))
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE, json.dumps([prediction.slide.sha256, metadata, geometry]))),
            "geometry": geometry,
            "properties": {
                "objectType": "tile",
                "classification": {"name": colour.name + suffix, "color": colour.rgb},
                "measurements": {
                    "attention": _rounded(attention[region.rows].sum(dtype=np.float64)),
                    "percentile": _rounded(percentile[region.rows].max()),
                    "tiles": len(region.rows),
                },
                "metadata": metadata,
            },
        }


def _polygon(region: Region, origin_l0: tuple[int, int]) -> Json:
    rings = [(ring - origin_l0).tolist() for ring in region.rings_l0]
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def _origin_l0(prediction: Prediction, origin: Origin) -> tuple[int, int]:
    return prediction.slide.bounds_l0[:2] if origin == "bounds" else (0, 0)


def _about(prediction: Prediction, origin: Origin) -> Json:
    """What the collection holds; GeoJSON lets readers pass over members that they do not know."""
    return {
        "schema_version": 1,
        "slide_id": prediction.slide_id,
        "slide_sha256": prediction.slide.sha256,
        "model": prediction.manifest.name,
        "model_version": prediction.manifest.version,
        "origin": origin,
        "origin_l0": _origin_l0(prediction, origin),
        "attention": "sum over the region's tiles; all tiles of a magnification sum to 1",
        "percentile": "highest among the region's tiles; 100 is the most attended tile",
        "intended_use": prediction.manifest.intended_use,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
