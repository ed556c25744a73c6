"""From a slide to its diagnosis."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import SlideError
from sagdeploy.files import sha256_of
from sagdeploy.manifest import Manifest, diagnosis_name, extractor_name
from sagdeploy.pipeline.stream import Progress, extractor_of, read_batch, stream_features
from sagdeploy.serving.engine import Arrays, Diagnosis, Engine, check_diagnosis
from sagdeploy.slides.metadata import Mpp, check_mpp
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import Tiles, coverage, plan_tiles
from sagdeploy.slides.tissue import TissueMask, find_tissue


REQUEST_BYTES = 48 << 20
"""Of tiles in one request: below the 64 MiB that Triton takes by default."""


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What is recorded of a slide: nothing that names a patient, a place or a person."""

    sha256: str
    size_l0: tuple[int, int]
    bounds_l0: tuple[int, int, int, int]
    mpp: Mpp
    vendor: str
    objective_power: float | None
    levels: tuple[tuple[int, int], ...]
    """(width, height) of each level."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A slide's diagnosis and all that it rests on."""

    slide_id: str
    manifest: Manifest
    diagnosis: Diagnosis
    tiles: tuple[Tiles, ...]
    """One a magnification, in the order of the attention."""

    tissue_coverage: tuple[NDArray[np.float64], ...]
    """Share of each tile on tissue, in the order of the tiles."""

    slide: SlideFacts
    engine: str
    """Engine.description"""

    counts: dict[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How slides are read for a diagnosis."""

    mpp: float | None = None
    """Forced microns per pixel; wins over the slide's metadata."""

    trust_mpp: bool = False
    """Take a scale outside the plausible range."""

    workers: int | None = None
    """Batches of tiles in flight; all cores by default."""

    def __post_init__(self) -> None:
        if self.mpp is not None:
            check_mpp(self.mpp, name="--mpp", trust=self.trust_mpp)


def predict_slide(
    slide: Slide,
    slide_id: str,
    engine: Engine,
    manifest: Manifest,
    options: PredictOptions = PredictOptions(),
    progress: Progress = lambda count: None,
) -> Prediction:
    """Diagnose one slide with one version of a model."""
    identity, sha256 = _identity(slide.path), sha256_of(slide.path)
    mpp = slide.resolve_mpp(override=options.mpp, trust=options.trust_mpp)
    tissue = find_tissue(slide)
    tiles = plan_tiles(
        manifest.plan,
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        slide_mpp=mpp.value,
        mask=tissue.mask,
        name=slide.name,
    )
    outputs = _infer(slide, tiles, engine, manifest, options, progress)
    if _identity(slide.path) != identity:
        raise SlideError(f"{slide.name}: changed while it was read", hint="copy the slide again")
    return Prediction(
        slide_id=slide_id,
        manifest=manifest,
        diagnosis=check_diagnosis(outputs, manifest, [len(t) for t in tiles]),
        tiles=tiles,
        tissue_coverage=tuple(_coverage(tissue, t) for t in tiles),
        slide=facts_of(slide, mpp, sha256),
        engine=engine.description,
        counts={"tiles": sum(len(t) for t in tiles)},
        warnings=_warnings(mpp),
    )


def facts_of(slide: Slide, mpp: Mpp, sha256: str) -> SlideFacts:
    """What is recorded of an open slide."""
    return SlideFacts(
        sha256=sha256,
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        mpp=mpp,
        vendor=slide.vendor,
        objective_power=slide.objective_power,
        levels=tuple(level.size for level in slide.levels),
    )


def _infer(
    slide: Slide,
    tiles: tuple[Tiles, ...],
    engine: Engine,
    manifest: Manifest,
    options: PredictOptions,
    progress: Progress,
) -> Arrays:
    """Outputs of the diagnosis network: one ensemble request where the bag fits, else streamed."""
    if _fits_one_request(tiles, engine, manifest):
        inputs = {
            name: read_batch(slide, level, 0, len(level))
            for name, level in zip(manifest.tensors("tiles"), tiles, strict=True)
        }
        outputs = engine.infer(manifest.name, inputs, version=manifest.version)
        progress(sum(len(t) for t in tiles))
        return outputs
    infer = extractor_of(
        engine, extractor_name(manifest.name), manifest.extractor.features, manifest.version
    )
    features = {
        name: stream_features(slide, level, infer, workers=options.workers, progress=progress)
        for name, level in zip(manifest.tensors("features"), tiles, strict=True)
    }
    return engine.infer(diagnosis_name(manifest.name), features, version=manifest.version)


def _fits_one_request(tiles: tuple[Tiles, ...], engine: Engine, manifest: Manifest) -> bool:
    """Whether the ensemble takes this bag at once; it serves the latest version only."""
    count = sum(len(t) for t in tiles)
    size = sum(3 * len(t) * t.size_px[0] * t.size_px[1] for t in tiles)
    return (
        0 < count <= engine.ensemble_tiles
        and size <= REQUEST_BYTES
        and manifest.version == engine.manifest(manifest.name).version
    )


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _coverage(tissue: TissueMask, tiles: Tiles) -> NDArray[np.float64]:
    return coverage(tissue.mask, tiles.xy_l0, tiles.size_l0, tissue.size_l0)


def _warnings(mpp: Mpp) -> tuple[str, ...]:
    if mpp.contradicts:
        return (f"mpp {mpp.value:g} was given; the slide's metadata say {mpp.metadata:g}",)
    return ()
