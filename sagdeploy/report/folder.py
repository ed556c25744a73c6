"""The folder of one slide's results, written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import OutputError
from sagdeploy.files import PARTIAL_PREFIX, sha256_of, write_bytes, write_json
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
    thumbnail = slide.thumbnail(MAX_PX)
    with _whole_folder(folder) as partial:
        write_bytes(partial / MAP, _attention_map(prediction, thumbnail))
        write_ome_tiff(partial / LAYERS, prediction)
        write_geojson(partial / REGIONS, prediction)
        write_tiles(partial / TILES, prediction)
        record = record_of(prediction, _hashes(partial))
        pictures = pictures_of(prediction, record, slide, thumbnail)
        page = render_page(record, prediction.manifest, pictures)
        write_bytes(partial / PAGE, page.encode())
        record = record.model_copy(update={"artefacts": _hashes(partial)})
        write_json(partial / RECORD, record.model_dump(mode="json"))
    return record


def write_failure(outcome: SlideOutcome, folder: Path) -> PredictionRecord:
    """Write why a slide has no diagnosis as `folder`; whatever was there goes."""
    record = failure_of(outcome)
    with _whole_folder(folder) as partial:
        write_json(partial / RECORD, record.model_dump(mode="json"))
    return record


def _attention_map(prediction: Prediction, thumbnail: NDArray[np.uint8]) -> bytes:
    """PNG of the maps of all magnifications, each with its legend, from top to bottom."""
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
    return encode_png(np.concatenate(maps))


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which takes its place when the block ends well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(mkdtemp(dir=folder.parent, prefix=PARTIAL_PREFIX))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fresh = work / "new"
        fresh.mkdir()
        yield fresh
        if folder.exists():
            folder.rename(work / "old")
        fresh.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder}: cannot be written: {error.strerror or error}",
        hint="free space or choose another --out",
    )
