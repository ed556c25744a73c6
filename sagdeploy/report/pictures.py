"""The pictures of a report, as data that stands inside its page."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.heads import GroupMap, maps_of
from sagdeploy.report.overlay import (
    data_uri,
    encode_jpeg,
    encode_layer,
    encode_png,
    fitted,
    shade_layer,
)
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.scale import COLOURS, SCALES, Scale, shades
from sagdeploy.slides.slide import Slide

SMALL_PX = 900
"""Longest side of the slide shown alone, in print and where scripts are off."""

TILE_PX = 512
"""Longest side of a tile's picture; a smaller tile is shown as the model saw it."""


Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MapPicture:
    """Where some of a model's heads looked at one magnification."""

    name: str
    largest: float
    """The most attended tile's share."""

    on_tissue: float
    images: dict[Scale, str]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Everything that a page shows, as data URIs."""

    slide: str
    small_slide: str
    ramp: str
    """The colours of the scale, least to most."""

    maps: tuple[tuple[MapPicture, ...], ...]
    """By magnification: of all heads, then of each group of them that the model has."""

    top_tiles: tuple[tuple[str, ...], ...]
    """One picture for each of the record's top tiles, by magnification."""


def pictures_of(
    prediction: Prediction,
    record: PredictionRecord,
    slide: Slide,
    thumbnail: NDArray[np.uint8],
) -> Pictures:
    """The pictures of a prediction.

    thumbnail: (h, w, 3) of the whole slide, the frame of the layers
    """
    small = Image.fromarray(thumbnail)
    small.thumbnail((SMALL_PX, SMALL_PX))
    return Pictures(
        slide=_jpeg(thumbnail, quality=82),
        small_slide=_jpeg(np.asarray(small), quality=82),
        ramp=data_uri("png", encode_png(COLOURS[None, 1:])),
        maps=tuple(
            _maps(prediction, index, (thumbnail.shape[1], thumbnail.shape[0]))
            for index in range(len(prediction.tiles))
        ),
        top_tiles=_top_tiles(record, slide),
    )


def _maps(prediction: Prediction, magnification: int, size_px: Size) -> tuple[MapPicture, ...]:
    tissue = prediction.tissue_coverage[magnification]
    return tuple(
        MapPicture(
            name=own.name,
            largest=float(own.attention.max()),
            on_tissue=min(1.0, float(own.attention @ tissue)),
            images={
                scale: _layer(prediction, magnification, own, size_px, scale) for scale in SCALES
            },
        )
        for own in maps_of(prediction, magnification)
    )


def _layer(
    prediction: Prediction, magnification: int, own: GroupMap, size_px: Size, scale: Scale
) -> str:
    layer = shade_layer(
        size_px,
        slide_size_l0=prediction.slide.size_l0,
        tiles=prediction.tiles[magnification],
        shade=shades(own.attention, scale),
    )
    return data_uri("png", encode_layer(layer))


def _top_tiles(record: PredictionRecord, slide: Slide) -> tuple[tuple[str, ...], ...]:
    assert record.attention is not None  # the record of a slide that is done
    pictures = []
    for facts in record.attention:
        size_px = fitted(facts.tile_size_px, TILE_PX)
        tiles = (slide.read(tile.xy_l0, facts.tile_size_l0, size_px) for tile in facts.top_tiles)
        pictures.append(tuple(_jpeg(tile, quality=90) for tile in tiles))
    return tuple(pictures)


def _jpeg(rgb: NDArray[np.uint8], *, quality: int) -> str:
    return data_uri("jpeg", encode_jpeg(rgb, quality=quality))
