"""From a cohort's slides to bags of features, resumable."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sagdeploy.bags.bag import Bag, BagHeader, Magnification, read_header, write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.config import problems
from sagdeploy.errors import BagError, ConfigError, EngineError, SagError
from sagdeploy.files import sha256_of, write_json
from sagdeploy.manifest import ExtractorCard, Manifest, extractor_name
from sagdeploy.pipeline.outcome import SlideOutcome, each_slide
from sagdeploy.pipeline.stream import Progress, extractor_of, stream_features
from sagdeploy.serving.engine import Engine
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.tiling import TilePlan, Tiles, coverage, plan_tiles
from sagdeploy.slides.tissue import find_tissue

EXTRACTOR_FILE = "extractor.onnx"
CARD_FILE = "extractor.json"


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
        card = _kept_card(bags, manifest.extractor)
        name = extractor_name(model)
        return Extraction(engine, name, card, plan, trust_mpp, manifest=manifest)
    except SagError:
        engine.close()
        raise


def extract_cohort(
    cohort: Cohort,
    bags: Path,
    extraction: Extraction,
    progress: Progress = lambda count: None,
) -> Iterator[SlideOutcome]:
    """Write `bags/<slide_id>.h5` for each slide, in order; an up-to-date bag is kept as it is."""

    def work(row: CohortSlide) -> str:
        return extract_slide(row, bags / f"{row.slide_id}.h5", extraction, progress)

    return each_slide(cohort.slides, lambda row: row.slide_id, work)


def extract_slide(
    row: CohortSlide, path: Path, extraction: Extraction, progress: Progress = lambda count: None
) -> str:
    """Write one slide's bag to `path`; says in a line what was done."""
    with open_slide(row.located()) as slide:
        mpp = slide.resolve_mpp(override=row.mpp, source="cohort", trust=extraction.trust_mpp)
        header = _header(slide, row, extraction, mpp)
        if _is_current(path, header):
            return "up to date"
        tissue = find_tissue(slide)
        tiles = plan_tiles(
            extraction.plan,
            size_l0=slide.size_l0,
            bounds_l0=slide.bounds_l0,
            slide_mpp=mpp.value,
            mask=tissue.mask,
            name=slide.name,
        )
        infer = extractor_of(
            extraction.engine, extraction.model, extraction.card.features, extraction.version
        )
        magnifications = tuple(
            Magnification(
                tiles=level,
                features=stream_features(
                    slide, level, infer, workers=extraction.workers, progress=progress
                ),
                tissue_coverage=coverage(tissue.mask, level.xy_l0, level.size_l0, slide.size_l0),
                heuristic_coverage=None,
            )
            for level in tiles
        )
    extraction.confirm()
    write_bag(path, Bag(header, magnifications))
    return f"{_count(tiles)} tiles"


def write_card(bags: Path, card: ExtractorCard) -> None:
    """Keep beside the bags which extractor made them."""
    write_json(bags / CARD_FILE, card.model_dump(mode="json"))


def read_card(bags: Path) -> ExtractorCard:
    """The card of the extractor that made the bags; BagError if there is none."""
    path = bags / CARD_FILE
    try:
        return ExtractorCard.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BagError(
            f"{bags}: no {CARD_FILE}, so no bags of this sagdeploy", hint="run sagdeploy extract"
        ) from error
    except ValidationError as error:
        raise BagError(f"{path}: {problems(error)}", hint="run sagdeploy extract again") from error


def _kept_card(bags: Path, card: ExtractorCard) -> ExtractorCard:
    """The folder's own card of the same extractor, or else `card`, which is written there."""
    if not (bags / CARD_FILE).exists():
        write_card(bags, card)
        return card
    kept = read_card(bags)
    if kept.sha256 != card.sha256:
        raise BagError(
            f"{bags}: holds bags of the extractor {kept.name} ({kept.weights})",
            hint="choose another --out",
        )
    return kept


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


def _is_current(path: Path, header: BagHeader) -> bool:
    """Whether a bag of the same slide, plan and extractor is there, whatever its age."""
    try:
        return path.exists() and read_header(path) == header
    except BagError:
        return False


def _count(tiles: tuple[Tiles, ...]) -> int:
    return sum(len(level) for level in tiles)
