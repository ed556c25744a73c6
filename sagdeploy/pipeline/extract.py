"""From a cohort's slides to bags of features, resumable."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from sagdeploy.bags.bag import Bag, BagHeader, Magnification, read_bag, read_header, write_bag
from sagdeploy.bags.card import kept_card
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import BagError, ConfigError, EngineError, SagError
from sagdeploy.files import sha256_of
from sagdeploy.manifest import ExtractorCard, Manifest, extractor_name
from sagdeploy.pipeline.cautions import missing_cautions
from sagdeploy.pipeline.cluster import Spread, one_by_one
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.journal import sole_run
from sagdeploy.pipeline.outcome import SlideOutcome, outcome_of
from sagdeploy.pipeline.run import RunFacts
from sagdeploy.pipeline.stream import Progress, extractor_of, stream_features, untold
from sagdeploy.serving.engine import Engine
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import TilePlan, coverage, plan_tiles
from sagdeploy.slides.tissue import find_tissue

EXTRACTOR_FILE = "extractor.onnx"


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
    bound: str | None = None
    """SlideRow.bound"""


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


def served_extraction(
    server: str, model: str, bags: Path, plan: TilePlan, *, trust_mpp: bool = False
) -> Extraction:
    """An extraction by the extractor of a model on a server, whose card goes beside the bags.

    By one version throughout, the latest now. Raises BagError where the folder holds bags of
    another extractor.
    """
    engine = TritonEngine(server)
    try:
        manifest = engine.manifest(model)
        card = kept_card(bags, manifest.extractor)
        name = extractor_name(model)
        return Extraction(engine, name, card, plan, trust_mpp, manifest=manifest)
    except SagError:
        engine.close()
        raise


def extract_cohort(
    cohort: Cohort,
    bags: Path,
    extraction: Extraction,
    progress: Progress = untold,
    *,
    fail_fast: bool = False,
    spread: Spread = one_by_one,
) -> Iterator[SlideOutcome]:
    """Write `bags/<slide_id>.h5` for each slide; an up-to-date bag is kept as it is.

    Outcomes come as slides end. `bags/run.json` says how each did, and what its features have to
    be.
    spread: over which processes
    """
    plan = TypeAdapter(TilePlan).dump_python(extraction.plan, mode="json")
    facts = RunFacts("extract", "", extraction.card.name, {"plan": plan})
    with sole_run(bags, facts, [row.slide_id for row in cohort.slides]) as journal:
        known = journal.known()
        tasks = [ExtractTask(row, known.get(row.slide_id)) for row in cohort.slides]
        work = partial(extract_slide, bags, extraction)
        with closing(spread(work, tasks, _lost, progress)) as ended:
            for result in ended:
                journal.add(
                    result.outcome,
                    seconds=result.seconds,
                    bound=result.bound,
                    sha256=result.sha256,
                    version=extraction.version,
                )
                yield result.outcome
                if fail_fast and result.outcome.status != "done":
                    journal.stop()
                    return


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
            header = _header(slide, row, extraction, mpp)
            sums.extend(_current(path, header, task.known_sha256))
            if sums:
                return "up to date"
            bag = _bag(slide, header, extraction, progress, flow)
            noted = _missing(slide, bag)
        extraction.confirm()
        write_bag(path, bag)
        sums.append(features_sha256(bag))
        return f"{sum(map(len, bag.magnifications))} tiles{noted}"

    outcome = outcome_of(row.slide_id, work, row.slide_path)
    seconds = time.perf_counter() - begun
    return ExtractResult(outcome, next(iter(sums), None), seconds, flow.bound)


def _lost(task: ExtractTask, reason: str) -> ExtractResult:
    """What is left of a slide that no worker could end."""
    outcome = SlideOutcome(task.row.slide_id, "failed", EngineError.exit_code, reason)
    return ExtractResult(outcome, None, 0.0)


def features_sha256(bag: Bag) -> str:
    """SHA-256 of a bag's features, and of their places: guidance may come and go."""
    total = hashlib.sha256()
    for level in bag.magnifications:
        total.update(np.ascontiguousarray(level.features).data)
        if level.tiles is not None:
            total.update(np.ascontiguousarray(level.tiles.xy_l0).data)
    return total.hexdigest()


def _header(slide: Slide, row: CohortSlide, extraction: Extraction, mpp: Mpp) -> BagHeader:
    return BagHeader(
        slide_id=row.slide_id,
        slide_sha256=sha256_of(slide.path),
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
    tissue = find_tissue(slide)
    assert header.mpp is not None  # of a slide with a header of ours
    tiles = plan_tiles(
        extraction.plan,
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        slide_mpp=header.mpp,
        mask=tissue.mask,
        name=slide.name,
    )
    infer = extractor_of(
        extraction.engine, extraction.model, extraction.card.features, extraction.version
    )
    levels = (
        Magnification(
            tiles=level,
            features=stream_features(
                slide,
                level,
                infer,
                workers=extraction.workers,
                pace=extraction.engine.pace,
                progress=progress,
                flow=flow,
            ),
            tissue_coverage=coverage(tissue.mask, level.xy_l0, level.size_l0, slide.size_l0),
            heuristic_coverage=None,
        )
        for level in tiles
    )
    return Bag(header, tuple(levels))


def _missing(slide: Slide, bag: Bag) -> str:
    """What there is to say of missing pixels; NotAnalysableError where they are too many."""
    coverages = [c for level in bag.magnifications if (c := level.tissue_coverage) is not None]
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
