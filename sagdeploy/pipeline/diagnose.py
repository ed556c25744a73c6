"""From the tiles of a slide to its diagnosis, by one version of a model.

A bag that fits is one request to the ensemble. A larger one is streamed through the extractor,
and the diagnosis network is asked once, for the features. The numbers are the same.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from sagdeploy.manifest import Manifest, diagnosis_name, extractor_name
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.stream import (
    Progress,
    TileReader,
    all_tiles,
    extractor_of,
    stream_features,
    untold,
)
from sagdeploy.serving.engine import REQUEST_BYTES, Arrays, Diagnosis, Engine, check_diagnosis
from sagdeploy.slides.tiling import Tiles

log = logging.getLogger(__name__)


def diagnose_tiles(
    slide: TileReader,
    tiles: Sequence[Tiles],
    engine: Engine,
    manifest: Manifest,
    *,
    workers: int | None = None,
    progress: Progress = untold,
    flow: Flow | None = None,
) -> Diagnosis:
    """The diagnosis of a bag of tiles, checked.

    Every request names the manifest's version: features of one never meet the head of another.

    tiles: one a magnification, in the manifest's order
    flow:  is told where the time went
    """
    flow = Flow() if flow is None else flow
    counts = [len(each) for each in tiles]
    if _fits_one_request(tiles, engine, manifest):
        outputs = _ask_ensemble(slide, tiles, engine, manifest, workers, flow)
        progress(sum(counts))
    else:
        outputs = _stream(slide, tiles, engine, manifest, workers, progress, flow)
    log.info("%d tiles in %.1f s, %s", flow.tiles, flow.seconds, flow.bound)
    return check_diagnosis(outputs, manifest, counts)


def _ask_ensemble(
    slide: TileReader,
    tiles: Sequence[Tiles],
    engine: Engine,
    manifest: Manifest,
    workers: int | None,
    flow: Flow,
) -> Arrays:
    with ExitStack() as bags:
        inputs = {
            name: bags.enter_context(all_tiles(slide, each, workers=workers, flow=flow))
            for name, each in zip(manifest.tensors("tiles"), tiles, strict=True)
        }
        with flow.of(0), flow.inferring():
            return engine.infer(manifest.name, inputs, version=manifest.version)


def _stream(
    slide: TileReader,
    tiles: Sequence[Tiles],
    engine: Engine,
    manifest: Manifest,
    workers: int | None,
    progress: Progress,
    flow: Flow,
) -> Arrays:
    infer = extractor_of(
        engine, extractor_name(manifest.name), manifest.extractor.features, manifest.version
    )
    features = {
        name: stream_features(
            slide,
            each,
            infer,
            workers=workers,
            pace=engine.pace(manifest.name, manifest.version),
            progress=progress,
            flow=flow,
        )
        for name, each in zip(manifest.tensors("features"), tiles, strict=True)
    }
    return engine.infer(diagnosis_name(manifest.name), features, version=manifest.version)


def _fits_one_request(tiles: Sequence[Tiles], engine: Engine, manifest: Manifest) -> bool:
    """Whether the ensemble takes this bag at once; it serves the latest version only."""
    count = sum(len(each) for each in tiles)
    size = sum(3 * len(each) * each.size_px[0] * each.size_px[1] for each in tiles)
    return (
        0 < count <= engine.ensemble_tiles(manifest.name)
        and size <= REQUEST_BYTES
        and manifest.version == engine.manifest(manifest.name).version
    )
