"""Diagnose many slides: one record each, whatever happens to any of them."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile

from sagdeploy.errors import OutputError
from sagdeploy.files import write_json
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.outcome import Report, SlideOutcome, exit_code, outcome_of
from sagdeploy.pipeline.predict import PredictOptions, predict_slide
from sagdeploy.pipeline.stream import Progress
from sagdeploy.pipeline.versions import ModelChoice, by_one_version
from sagdeploy.report.folder import write_failure, write_results
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.tables import write_predictions
from sagdeploy.serving.engine import Engine
from sagdeploy.slides.slide import open_slide


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked of every slide of a batch."""

    engine: Engine
    model: ModelChoice
    out: Path
    options: PredictOptions


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended: one record and one outcome a slide, in order."""

    records: tuple[PredictionRecord, ...]
    outcomes: tuple[SlideOutcome, ...]


def predict_batch(
    slides: Sequence[SlideInput],
    batch: Batch,
    *,
    report: Report = lambda outcome: outcome,
    progress: Progress = lambda count: None,
) -> BatchResult:
    """Diagnose slides into `out/<slide_id>/`, with `predictions.csv` and `run.json` beside.

    Raises OutputError, before any slide is read, where `out` cannot be written.
    """
    _check_writable(batch.out)
    started = time.time()
    records, outcomes, seconds = [], [], []
    for slide in slides:
        begun = time.perf_counter()
        record, outcome = _one(slide, batch, progress)
        seconds.append(round(time.perf_counter() - begun, 3))
        records.append(record)
        outcomes.append(outcome)
        report(outcome)
    result = BatchResult(tuple(records), tuple(outcomes))
    write_predictions(batch.out / "predictions.csv", result.records)
    write_json(batch.out / "run.json", _run(batch, result, seconds, started))
    return result


def _one(
    slide: SlideInput, batch: Batch, progress: Progress
) -> tuple[PredictionRecord, SlideOutcome]:
    folder = batch.out / slide.slide_id
    written: list[PredictionRecord] = []

    def work() -> str:
        with open_slide(slide.path) as opened:
            prediction = by_one_version(
                batch.engine,
                batch.model,
                lambda manifest: predict_slide(
                    opened, slide.slide_id, batch.engine, manifest, batch.options, progress
                ),
            )
            written.append(write_results(prediction, opened, folder))
        return _sentence(written[0])

    outcome = outcome_of(slide.slide_id, work)
    if outcome.status != "done":
        return write_failure(outcome, folder), outcome
    return written[0], outcome


def _sentence(record: PredictionRecord) -> str:
    assert record.prediction is not None  # the record of a slide that is done
    prediction = record.prediction
    cautions = "".join(f"; {caution.code}: {caution.message}" for caution in record.warnings)
    return f"{prediction.label} {prediction.probabilities[prediction.label]:.3f}{cautions}"


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written: {error.strerror}", hint="choose another --out"
        ) from error


def _run(
    batch: Batch, result: BatchResult, seconds: Sequence[float], started: float
) -> dict[str, object]:
    """What ran, with which versions, what failed and why; the only file that holds times."""
    rows = [
        asdict(outcome) | {"seconds": duration}
        for outcome, duration in zip(result.outcomes, seconds, strict=True)
    ]
    return {
        "schema_version": 1,
        "started": _utc(started),
        "ended": _utc(time.time()),
        "sagdeploy": version("sagdeploy"),
        "engine": batch.engine.description,
        "model": batch.model.name,
        "model_versions": sorted({r.model.version for r in result.records if r.model}),
        "options": asdict(batch.options),
        "exit_code": exit_code(result.outcomes),
        "slides": rows,
    }


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
