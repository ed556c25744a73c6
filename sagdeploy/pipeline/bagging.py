"""From one slide to its bag of features, unless the bag is there."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import read_bag, read_header, write_bag
from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.errors import BagError, ConfigError, EngineError
from sagdeploy.manifest import ExtractorCard, Manifest
from sagdeploy.pipeline.cautions import missing_cautions
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.outcome import SlideOutcome, outcome_of
from sagdeploy.pipeline.stream import Progress, extractor_of, stream_features, untold
from sagdeploy.serving.engine import Engine
from sagdeploy.slides.cutting import tiles_of
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.source import Source, unchanged
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.slides.tissue import find_tissue


@dataclass(frozen=True, slots=True)
class ExtractTask:
    """One slide of a cohort to make a bag of."""

    row: CohortSlide
    known_sha256: str | None = None
    """That an earlier run has noted of the bag; None where none did."""


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """How one slide ended, and what its bag holds."""

    outcome: SlideOutcome
    sha256: str | None
    """Of the features; None where there are none."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """How slides become bags, the same for a whole cohort."""

    engine: Engine
    model: str
    """The extractor's name in the engine."""

    card: ExtractorCard
    plan: TilePlan
    trust_mpp: bool = False
    workers: int | None = None
    manifest: Manifest | None = None
    """What a server said of the model as it began; None for an extractor in this process."""

    @property
    def version(self) -> int | None:
        """Of the extractor; None where there is only one."""
        return self.manifest.version if self.manifest else None

    def __post_init__(self) -> None:
        tile_px = self.card.tile_px
        if tile_px and (self.plan.kind == "grid" or self.plan.tile_px != tile_px):
            raise ConfigError(
                f"extractor {self.card.name} takes tiles of {tile_px} px only",
                hint=f"pass --plan dense --tile-px {tile_px}",
            )

    def confirm(self) -> None:
        """EngineError unless the server still has what the card describes."""
        began = self.manifest
        if began and self.engine.manifest(began.name, began.version) != began:
            raise EngineError(
                f"model {began.name!r} has changed on the server since the extraction began",
                hint="the same command, with another --out, begins anew with what is there now",
            )


def extract_slide(
    bags: Path, extraction: Extraction, task: ExtractTask, progress: Progress = untold
) -> ExtractResult:
    """Write one slide's bag, unless it is there; all that differs from time to time is seconds."""
    begun, row = time.perf_counter(), task.row
    path = bags / f"{row.slide_id}.h5"
    sums: list[str] = []
    flow = Flow()

    def work() -> str:
        with open_isolated(row.located()) as slide:
            mpp = slide.resolve_mpp(override=row.mpp, source="cohort", trust=extraction.trust_mpp)
            with unchanged(slide.path) as source:
                header = _header(slide, source, row, extraction, mpp)
                sums.extend(_current(path, header, task.known_sha256))
                if sums:
                    return "up to date"
                bag = _bag(slide, header, extraction, progress, flow)
            noted = _missing(slide, bag)
        extraction.confirm()
        write_bag(path, bag)
        sums.append(features_sha256(bag))
        return f"{sum(map(len, bag.magnifications))} tiles{noted}"

    outcome = replace(outcome_of(row.slide_id, work, row.slide_path), bound=flow.bound)
    seconds = time.perf_counter() - begun
    return ExtractResult(outcome, next(iter(sums), None), seconds)


def features_sha256(bag: Bag) -> str:
    """SHA-256 of a bag's features, and of their places: guidance may come and go."""
    total = hashlib.sha256()
    for magnification in bag.magnifications:
        total.update(np.ascontiguousarray(magnification.features).data)
        if magnification.tiles is not None:
            total.update(np.ascontiguousarray(magnification.tiles.xy_l0).data)
    return total.hexdigest()


def _header(
    slide: Slide, source: Source, row: CohortSlide, extraction: Extraction, mpp: Mpp
) -> BagHeader:
    return BagHeader(
        slide_id=row.slide_id,
        slide_sha256=source.sha256,
        slide_size_l0=slide.size_l0,
        mpp=mpp.value,
        mpp_source=mpp.source,
        plan=extraction.plan,
        extractor=extraction.card,
    )


def _bag(
    slide: Slide, header: BagHeader, extraction: Extraction, progress: Progress, flow: Flow
) -> Bag:
    """The bag of an open slide."""
    assert header.mpp is not None  # of a slide with a header of ours
    tissue = find_tissue(slide, header.mpp)
    tiles = tiles_of(slide, tissue, extraction.plan, mpp=header.mpp)
    infer = extractor_of(
        extraction.engine, extraction.model, extraction.card.features, extraction.version
    )
    magnifications = (
        Magnification(
            tiles=each,
            features=stream_features(
                slide,
                each,
                infer,
                workers=extraction.workers,
                pace=extraction.engine.pace(extraction.model, extraction.version),
                progress=progress,
                flow=flow,
            ),
            tissue_coverage=tissue.coverage(each),
            heuristic_coverage=None,
        )
        for each in tiles
    )
    return Bag(header, tuple(magnifications))


def _missing(slide: Slide, bag: Bag) -> str:
    """What there is to say of missing pixels; NotAnalysableError where they are too many."""
    coverages = [c for each in bag.magnifications if (c := each.tissue_coverage) is not None]
    cautions = missing_cautions(slide.tiles_read, coverages, name=slide.name)
    return "".join(f"; {caution.code}: {caution.message}" for caution in cautions)


def _current(path: Path, header: BagHeader, known_sha256: str | None) -> Iterator[str]:
    """The SHA-256 of the features in a bag that is what would be made now; else nothing."""
    try:
        if not path.exists() or read_header(path) != header:
            return
        sha256 = features_sha256(read_bag(path))
    except BagError:
        return
    if known_sha256 in (None, sha256):
        yield sha256
