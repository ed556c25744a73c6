"""From a cohort's slides to bags of features, resumable."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from sagdeploy.bags.card import kept_card
from sagdeploy.bags.cohort import Cohort
from sagdeploy.errors import EngineError, SagError
from sagdeploy.manifest import extractor_name
from sagdeploy.pipeline.bagging import Extraction, ExtractResult, ExtractTask, extract_slide
from sagdeploy.pipeline.cluster import Spread, one_by_one
from sagdeploy.pipeline.journal import sole_run
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.run import RunFacts
from sagdeploy.pipeline.stream import Progress, untold
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.tiling import TilePlan

EXTRACTOR_FILE = "extractor.onnx"


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
                    sha256=result.sha256,
                    version=extraction.version,
                )
                yield result.outcome
                if fail_fast and result.outcome.status != "done":
                    journal.stop()
                    return


def _lost(task: ExtractTask, reason: str) -> ExtractResult:
    """What is left of a slide that no worker could end."""
    outcome = SlideOutcome(task.row.slide_id, "failed", EngineError.exit_code, reason)
    return ExtractResult(outcome, None, 0.0)
