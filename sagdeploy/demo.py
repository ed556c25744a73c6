"""The whole way on a painted cohort, offline: slides in, a served model and a report out."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from sagdeploy.bags.cohort import Cohort, read_cohort
from sagdeploy.batch import Batch, predict_batch
from sagdeploy.config import (
    GuidanceSettings,
    Guide,
    ModelSettings,
    OptimSettings,
    TrainSettings,
)
from sagdeploy.errors import BatchError
from sagdeploy.export.extractor import ExtractorSource, local_extraction
from sagdeploy.export.run import export_run
from sagdeploy.files import write_json
from sagdeploy.pipeline.extract import extract_cohort
from sagdeploy.pipeline.guide import guide_cohort
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.journal import sole_writer
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.synth import CohortSpec, paint_cohort
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.comparison import compare
from sagdeploy.training.curves import draw_curves
from sagdeploy.training.evaluate import evaluate_run
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.table import write_comparison

MODEL = "sag"
SLIDES = 60
SEEDS = 3
SHORTCUT = 1.0
"""How well the pen marks tell the class in training slides; in test slides they do not."""

PLAN: Final = TilePlan(min_tissue=0.0)
"""Background kept, as on the paper's melanoma slides: there is something to be misled by."""

EXTRACTOR: Final = ExtractorSource("stain_texture")
OPTIM: Final = OptimSettings(epochs=60, lr=5e-3, betas=(0.9, 0.999), weight_decay=1e-3, bag_batch=4)
ARMS: Final[dict[str, tuple[Guide, ...]]] = {
    "baseline": (),
    "hg": ("hg",),
    "hg-tg": ("hg", "tg"),
}


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm on the held-out slides."""

    arm: str
    mean: dict[str, float]
    """Over the seeds."""

    seeds: tuple[dict[str, float | None], ...]
    """Of each seed."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made, and what it measured."""

    extractor: str
    """What the features come from, in words."""

    arms: tuple[ArmResult, ...]
    slides: int
    """How many were held out."""

    diagnosis: str
    """Of the slide in the report, which was held out."""

    report: str
    """Path of its page."""

    comparison: str
    """Path of the page that has the arms side by side."""

    seconds: dict[str, float]
    """That each stage took."""


class Audience(Protocol):
    """Whoever watches the demo."""

    def stage(self, name: str, what: str) -> None:
        """A stage begins."""
        ...

    def progress(self, done: int, total: int) -> None:
        """The stage is this far."""
        ...


@dataclass(slots=True)
class Stages:
    """Tells of each stage as it begins, and keeps the time it takes."""

    audience: Audience
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """A block that is a stage: its name, and what happens in it."""
        self.audience.stage(name, what)
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 1)


def run_demo(out: Path, seed: int, audience: Audience) -> DemoResult:
    """Paint, extract, guide, train three arms, export, predict and report, all into `out`."""
    stages = Stages(audience)
    bags, repository = out / "bags", out / "model_repository"
    with stages.stage("paint", f"{SLIDES} slides; in training ones the pen gives the class away"):
        spec = CohortSpec(slides=SLIDES, seed=seed, shortcut=SHORTCUT)
        cohort = read_cohort(paint_cohort(out / "cohort", spec, progress=audience.progress))
    with stages.stage("extract", f"features of every tile, by {EXTRACTOR.name}"):
        with sole_writer(bags):
            extraction = local_extraction(EXTRACTOR, bags, PLAN)
        with closing(extraction.engine):
            _all_done(extract_cohort(cohort, bags, extraction), SLIDES, audience)
        card = extraction.card
    with stages.stage("guide", "tissue and lesion outlines as weights of the tiles"):
        guided = guide_cohort(cohort, bags, tissue=True, heuristic="annotations")
        _all_done(guided, SLIDES, audience)
    with stages.stage(
        "train", f"{len(ARMS)} arms x {SEEDS} seeds, then measure on held-out slides"
    ):
        arms = tuple(_train(arm, cohort, bags, out / f"run-{arm}", seed, audience) for arm in ARMS)
    with stages.stage("compare", "the arms, as a table with its pictures"):
        comparison = _compare([out / f"run-{arm}" for arm in ARMS], cohort, bags, out)
    with stages.stage("export", f"the best HG+TG seed on validation, into {repository}"):
        export_run(out / "run-hg-tg", repository, MODEL)
    held_out = cohort.of_split("test")
    shown = SlideInput(held_out[-1].slide_id, held_out[-1].located())
    with stages.stage("predict", f"{shown.slide_id}, with the exported model"):
        diagnosis = _predict(shown, repository, out / "out")
    report = str(out / "out" / shown.slide_id / "report.html")
    result = DemoResult(
        card.weights, arms, len(held_out), diagnosis, report, str(comparison), stages.seconds
    )
    write_json(out / "demo.json", asdict(result))
    return result


def _all_done(outcomes: Iterable[SlideOutcome], total: int, audience: Audience) -> None:
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.status != "done":
            raise BatchError(f"{outcome.slide_id}: {outcome.message}")
        audience.progress(done, total)


def _train(
    arm: str, cohort: Cohort, bags: Path, run: Path, seed: int, audience: Audience
) -> ArmResult:
    settings = TrainSettings(
        model=ModelSettings(standardise=True),
        guidance=GuidanceSettings(terms=ARMS[arm]),
        optim=OPTIM,
    )
    epochs = count(1 + SEEDS * OPTIM.epochs * list(ARMS).index(arm))
    total = SEEDS * OPTIM.epochs * len(ARMS)
    seeds = range(seed, seed + SEEDS)
    train_seeds(
        cohort,
        bags,
        run,
        settings,
        seeds,
        progress=lambda done: audience.progress(next(epochs), total),
    )
    evaluation = evaluate_run(run, cohort, bags, "test")
    return ArmResult(arm, evaluation.mean, tuple(one.metrics for one in evaluation.seeds))


def _compare(runs: Sequence[Path], cohort: Cohort, bags: Path, out: Path) -> Path:
    for run in runs:
        draw_curves(run)
    write_comparison(compare(runs), runs, out / "comparison", cohort=cohort, bags=bags)
    return out / "comparison" / "table1.html"


def _predict(slide: SlideInput, repository: Path, out: Path) -> str:
    engine = LocalEngine(repository)
    batch = Batch(engine, ModelChoice(MODEL), out, PredictOptions())
    (outcome,) = predict_batch([slide], batch).outcomes
    if outcome.status != "done":
        raise BatchError(f"{outcome.slide_id}: {outcome.message}")
    return outcome.message
