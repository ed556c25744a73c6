"""From a slide to its diagnosis."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import SlideError
from sagdeploy.files import sha256_of
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.stream import Progress
from sagdeploy.serving.engine import Diagnosis, Engine
from sagdeploy.slides.metadata import Mpp, check_mpp
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import Tiles, coverage, plan_tiles
from sagdeploy.slides.tissue import TissueMask, find_tissue

CautionCode = Literal["mpp_contradicts", "attention_off_tissue"]


@dataclass(frozen=True, slots=True)
class Caution:
    """Why a diagnosis should be looked at twice."""

    code: CautionCode
    message: str


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
    warnings: tuple[Caution, ...]


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
    diagnosis = diagnose_tiles(
        slide, tiles, engine, manifest, workers=options.workers, progress=progress
    )
    coverages = tuple(_coverage(tissue, t) for t in tiles)
    if _identity(slide.path) != identity:
        raise SlideError(f"{slide.name}: changed while it was read", hint="copy the slide again")
    return Prediction(
        slide_id=slide_id,
        manifest=manifest,
        diagnosis=diagnosis,
        tiles=tiles,
        tissue_coverage=coverages,
        slide=facts_of(slide, mpp, sha256),
        engine=engine.description,
        counts={"tiles": sum(len(t) for t in tiles)},
        warnings=(*_scale_cautions(mpp), *_off_tissue(diagnosis, coverages, manifest)),
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


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _coverage(tissue: TissueMask, tiles: Tiles) -> NDArray[np.float64]:
    return coverage(tissue.mask, tiles.xy_l0, tiles.size_l0, tissue.size_l0)


def _scale_cautions(mpp: Mpp) -> Iterator[Caution]:
    if mpp.contradicts:
        yield Caution(
            "mpp_contradicts",
            f"mpp {mpp.value:g} was given; the slide's metadata say {mpp.metadata:g}",
        )


def _off_tissue(
    diagnosis: Diagnosis, coverages: Iterable[NDArray[np.float64]], manifest: Manifest
) -> Iterator[Caution]:
    """A caution where less attention is on tissue than on any slide that validated the model."""
    floor = manifest.attention_on_tissue_floor
    levels = zip(diagnosis.attention, coverages, strict=True)
    least = min(float(attention @ coverage) for attention, coverage in levels)
    if floor is not None and least < floor:
        yield Caution(
            "attention_off_tissue",
            f"only {100 * least:.0f} % of the attention is on tissue; at least {100 * floor:.0f} %"
            " is expected from the model's validation: look at the map before the diagnosis",
        )
