"""From a slide to its diagnosis."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.cautions import (
    Caution,
    missing_cautions,
    off_tissue_cautions,
    scale_cautions,
)
from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.stream import Progress, untold
from sagdeploy.serving.engine import Diagnosis, Engine
from sagdeploy.slides.cutting import tiles_of
from sagdeploy.slides.metadata import Mpp, MppSource, check_mpp
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.source import Source, unchanged
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.slides.tissue import find_tissue


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How slides are read for a diagnosis."""

    mpp: float | None = None
    """Forced microns per pixel; wins over the slide's metadata."""

    mpp_source: MppSource = "option"
    """Who forced it."""

    trust_mpp: bool = False
    """Take a scale outside the plausible range."""

    def __post_init__(self) -> None:
        if self.mpp is not None and self.mpp_source == "option":  # others fail with their slide
            check_mpp(self.mpp, name="--mpp", trust=self.trust_mpp)


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What is recorded of a slide: nothing that names a patient, a place or a person."""

    sha256: str
    """Of its content: see `content_sha256`."""

    size_bytes: int
    """Of all its files."""

    size_l0: tuple[int, int]
    bounds_l0: tuple[int, int, int, int]
    mpp: Mpp
    vendor: str
    objective_power: float | None
    levels: tuple[tuple[int, int], ...]
    """(width, height) of each level."""

    missing_share: float
    """Of the level pixels that were read of the tiles: those that the file has no data for."""


@dataclass(frozen=True, slots=True)
class TissueFacts:
    """What was found of a slide's tissue."""

    share: float
    """Of the slide."""

    threshold: float
    """Colour from which on a pixel was tissue."""


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
    tissue: TissueFacts
    options: PredictOptions
    engine: str
    """Engine.name: what it is, not where."""

    counts: dict[str, int]
    """Tiles by what became of them: `tiles` are those that were read."""

    warnings: tuple[Caution, ...]


def predict_slide(
    slide: Slide,
    slide_id: str,
    engine: Engine,
    manifest: Manifest,
    options: PredictOptions = PredictOptions(),
    progress: Progress = untold,
    flow: Flow | None = None,
) -> Prediction:
    """Diagnose one slide with one version of a model; `flow` is told where the time went."""
    with unchanged(slide.path) as source:
        mpp = slide.resolve_mpp(
            override=options.mpp, source=options.mpp_source, trust=options.trust_mpp
        )
        tissue = find_tissue(slide, mpp.value)
        tiles = tiles_of(slide, tissue, manifest.plan, mpp=mpp.value)
        read_before = slide.tiles_read
        diagnosis = diagnose_tiles(slide, tiles, engine, manifest, progress=progress, flow=flow)
        read = slide.tiles_read - read_before
    coverages = tuple(map(tissue.coverage, tiles))
    cautions = (
        *scale_cautions(mpp),
        *missing_cautions(read, coverages, name=slide.name),
        *off_tissue_cautions(diagnosis.attention, coverages, manifest.attention_on_tissue_floor),
    )
    return Prediction(
        slide_id=slide_id,
        manifest=manifest,
        diagnosis=diagnosis,
        tiles=tiles,
        tissue_coverage=coverages,
        slide=_facts(slide, mpp, source, read.missing_share),
        tissue=TissueFacts(tissue.share, tissue.threshold),
        options=options,
        engine=engine.name,
        counts=_counts(manifest.plan, tiles, slide.bounds_l0),
        warnings=cautions,
    )


def _facts(slide: Slide, mpp: Mpp, source: Source, missing_share: float) -> SlideFacts:
    return SlideFacts(
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        mpp=mpp,
        vendor=slide.vendor,
        objective_power=slide.objective_power,
        levels=tuple(level.size for level in slide.levels),
        missing_share=missing_share,
    )


def _counts(
    plan: TilePlan, tiles: tuple[Tiles, ...], bounds_l0: tuple[int, int, int, int]
) -> dict[str, int]:
    """How many tiles were read, and how many of the plan were not, by reason."""
    read = sum(map(len, tiles))
    if plan.kind == "grid":
        return {"tiles": read}
    _, _, width, height = bounds_l0
    planned = sum((width // t.size_l0[0]) * (height // t.size_l0[1]) for t in tiles)
    return {"tiles": read, "left_out_for_little_tissue": planned - read}
