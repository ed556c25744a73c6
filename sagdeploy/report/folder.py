"""The folder of one slide's results, written whole or not at all."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sagdeploy.files import sha256_of, whole_folder, write_bytes, write_json
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.findings import failure_of, record_of
from sagdeploy.report.geojson import write_geojson
from sagdeploy.report.ome import write_ome_tiff
from sagdeploy.report.overlay import MAX_PX, encode_png, render_overlay
from sagdeploy.report.page import render_page
from sagdeploy.report.pictures import pictures_of
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.tables import write_tiles
from sagdeploy.slides.slide import Slide

RECORD = "prediction.json"
MAP, LAYERS, REGIONS = "attention.png", "attention.ome.tif", "attention.geojson"
TILES, PAGE = "tiles.csv", "report.html"


def write_results(prediction: Prediction, slide: Slide, folder: Path) -> PredictionRecord:
    """Write a prediction's record, maps, table and report as `folder`; whatever was there goes."""
    record = record_of(prediction, {})
    with whole_folder(folder) as partial, ThreadPoolExecutor(1) as aside:
        decoded = aside.submit(slide.thumbnail, MAX_PX)
        write_geojson(partial / REGIONS, prediction)
        write_tiles(partial / TILES, prediction)
        write_ome_tiff(partial / LAYERS, prediction)
        thumbnail = decoded.result()
        coloured = _attention_map(prediction, thumbnail)
        pictures = aside.submit(pictures_of, prediction, record, slide, thumbnail)
        write_bytes(partial / MAP, encode_png(coloured))
        record = record.model_copy(update={"artefacts": _hashes(partial)})
        page = render_page(record, prediction.manifest, pictures.result())
        write_bytes(partial / PAGE, page.encode())
        record = record.model_copy(update={"artefacts": _hashes(partial)})
        write_json(partial / RECORD, record.model_dump(mode="json"))
    return record


def write_failure(outcome: SlideOutcome, folder: Path) -> PredictionRecord:
    """Write why a slide has no diagnosis as `folder`; whatever was there goes."""
    record = failure_of(outcome)
    with whole_folder(folder) as partial:
        write_json(partial / RECORD, record.model_dump(mode="json"))
    return record


def read_record(folder: Path) -> PredictionRecord | None:
    """The record in a slide's folder; None where there is none, or it cannot be trusted."""
    try:
        return PredictionRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def is_free(folder: Path) -> bool:
    """Whether results may take this name: nothing has it, or only earlier results do.

    The pixels of a slide `case.mrxs`, for one, are in a folder `case` beside it.
    """
    return not folder.exists() or (folder / RECORD).is_file()


def is_whole(record: PredictionRecord, folder: Path) -> bool:
    """Whether a slide's folder holds the files that its record names, with those bytes, alone."""
    try:
        there = {path.name for path in folder.iterdir()} - {RECORD}
        return there == set(record.artefacts) and _hashes(folder, there) == record.artefacts
    except OSError:
        return False


def _attention_map(prediction: Prediction, thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The maps of all magnifications, each with its legend, from top to bottom."""
    manifest = prediction.manifest
    maps = [
        render_overlay(
            thumbnail,
            slide_size_l0=prediction.slide.size_l0,
            tiles=tiles,
            attention=attention,
            title=f"{manifest.name} {manifest.version}, mpp {tiles.mpp:g}",
        )
        for tiles, attention in zip(prediction.tiles, prediction.diagnosis.attention, strict=True)
    ]
    return np.concatenate(maps)


def _hashes(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 by name of the files in a folder, of all that are there by default."""
    if names is None:
        names = [path.name for path in folder.iterdir()]
    return {name: sha256_of(folder / name) for name in sorted(names)}
