"""Diagnose many slides: one record each, whatever happens to any of them.

The same command goes on where a run ended: `resume` says what can stay as it is.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from sagdeploy.errors import EngineError
from sagdeploy.pipeline.cluster import Spread, one_by_one
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.journal import Journal, sole_run
from sagdeploy.pipeline.outcome import Report, SlideOutcome, exit_code, outcome_of
from sagdeploy.pipeline.predict import PredictOptions, predict_slide
from sagdeploy.pipeline.run import RunFacts
from sagdeploy.pipeline.stream import Progress, untold
from sagdeploy.pipeline.versions import ModelChoice, by_one_version
from sagdeploy.report.folder import read_record, write_failure, write_results
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.tables import PREDICTIONS, write_predictions
from sagdeploy.resume import (
    check_free,
    check_one_kind,
    is_current,
    options_of,
    other_results,
    outdated,
)
from sagdeploy.serving.engine import Engine
from sagdeploy.slides.isolation import open_isolated


@dataclass(frozen=True, slots=True)
class SlideTask:
    """All that one slide needs but an engine; plain values, which can be sent elsewhere."""

    slide: SlideInput
    model: ModelChoice
    out: Path
    options: PredictOptions
    known_sha256: str | None = None
    """That the record of an earlier run has to have; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class SlideResult:
    """How one slide ended, and the record that is written of it."""

    outcome: SlideOutcome
    record: PredictionRecord
    seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked of every slide of a batch."""

    engine: Engine
    model: ModelChoice
    out: Path
    options: PredictOptions
    overwrite: bool = False
    """Do again what another model, or other parameters, made in `out`."""

    fail_fast: bool = False
    """Stop at the first slide that is not done."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended: one record and one outcome a slide, in order."""

    records: tuple[PredictionRecord, ...]
    outcomes: tuple[SlideOutcome, ...]
    slides: int
    """How many there were; more than records where the batch was stopped."""

    @property
    def exit_code(self) -> int:
        """Of the whole batch."""
        return exit_code(self.outcomes, self.slides)


def predict_batch(
    slides: Sequence[SlideInput],
    batch: Batch,
    *,
    report: Report = lambda outcome: outcome,
    progress: Progress = untold,
    spread: Spread = one_by_one,
) -> BatchResult:
    """Diagnose slides into `out/<slide_id>/`, with `predictions.csv` and `run.json` beside.

    spread: over which processes

    Raises OutputError, before any slide is read, where `out` cannot be written, another run
    writes into it, or it holds results of another model or of other parameters.
    """
    ids = [slide.slide_id for slide in slides]
    facts = RunFacts("predict", batch.engine.name, batch.model.name, asdict(batch.options))
    table = _Table(batch.out, ids)
    results: dict[str, SlideResult] = {}
    with sole_run(
        batch.out,
        facts,
        ids,
        begin=lambda journal: _begin(slides, batch, journal, table),
        table=table.write,
    ) as journal:
        known = journal.known()
        tasks = [
            SlideTask(slide, batch.model, batch.out, batch.options, known.get(slide.slide_id))
            for slide in slides
        ]
        work = partial(do_slide, batch.engine)
        with closing(spread(work, tasks, _lost, progress)) as ended:
            for result in ended:
                slide_id = result.outcome.slide_id
                results[slide_id] = result
                table.records[slide_id] = result.record
                _note(journal, result)
                report(result.outcome)
                if batch.fail_fast and result.outcome.status != "done":
                    journal.stop()
                    break
    in_order = [results[slide_id] for slide_id in ids if slide_id in results]
    return BatchResult(
        tuple(result.record for result in in_order),
        tuple(result.outcome for result in in_order),
        len(ids),
    )


def do_slide(engine: Engine, task: SlideTask, progress: Progress) -> SlideResult:
    """Diagnose one slide into `out/<slide_id>/`, unless that is done already.

    Whoever does the same task, here or elsewhere, once or again, writes the same bytes, each time
    as a whole: only the seconds differ.
    """
    begun = time.perf_counter()
    slide, folder = task.slide, task.out / task.slide.slide_id
    records: list[PredictionRecord] = []
    flow = Flow()

    def work() -> str:
        options = options_of(slide, task.options)
        record = read_record(folder)
        if record is not None and is_current(
            record,
            folder,
            slide,
            manifest=task.model.manifest(engine),
            options=options,
            known_sha256=task.known_sha256,
        ):
            records.append(record)
            return f"up to date: {_sentence(record)}"
        with open_isolated(slide.path) as opened:
            prediction = by_one_version(
                engine,
                task.model,
                lambda manifest: predict_slide(
                    opened, slide.slide_id, engine, manifest, options, progress, flow
                ),
            )
            records.append(write_results(prediction, opened, folder))
        return _sentence(records[0])

    outcome = replace(outcome_of(slide.slide_id, work, slide.path), bound=flow.bound)
    record = records[0] if outcome.status == "done" else write_failure(outcome, folder)
    return SlideResult(outcome, record, time.perf_counter() - begun)


def _lost(task: SlideTask, reason: str) -> SlideResult:
    """What is left of a slide that no worker could end."""
    outcome = SlideOutcome(task.slide.slide_id, "failed", EngineError.exit_code, reason)
    return SlideResult(outcome, write_failure(outcome, task.out / task.slide.slide_id), 0.0)


def _note(journal: Journal, result: SlideResult) -> None:
    model = result.record.model
    journal.add(
        result.outcome,
        seconds=result.seconds,
        sha256=result.record.sha256,
        version=model.version if model else None,
    )


@dataclass(slots=True)
class _Table:
    """`predictions.csv`: one row for each slide of the batch, then those of earlier runs."""

    out: Path
    slide_ids: Sequence[str]
    records: dict[str, PredictionRecord] = field(default_factory=dict)
    others: Sequence[PredictionRecord] = ()
    """Read once: there may be ten thousand, and the table is written every few seconds."""

    def write(self, finished: Collection[str]) -> str:
        """Write what is known now of the slides that are finished, and return its SHA-256."""
        done = [self.records[name] for name in self.slide_ids if name in finished]
        unfinished = [name for name in self.slide_ids if name not in finished]
        return write_predictions(self.out / PREDICTIONS, [*done, *self.others], unfinished)


def _begin(slides: Sequence[SlideInput], batch: Batch, journal: Journal, table: _Table) -> None:
    """Look at what is in `out` before anything is written there."""
    check_free(batch.out, slides)
    others = other_results(batch.out, set(table.slide_ids), journal.known())
    journal.earlier = others
    table.others = [record for name in others if (record := read_record(batch.out / name))]
    if any(path.is_dir() for path in batch.out.iterdir()):
        manifest, options = batch.model.manifest(batch.engine), batch.options
        if not batch.overwrite:
            check_one_kind(batch.out, slides, others, manifest=manifest, options=options)
        journal.forget(outdated(batch.out, slides, manifest=manifest, options=options))


def _sentence(record: PredictionRecord) -> str:
    assert record.prediction is not None  # the record of a slide that is done
    prediction = record.prediction
    cautions = "".join(f"; {caution.code}: {caution.message}" for caution in record.warnings)
    return f"{prediction.label} {prediction.probabilities[prediction.label]:.3f}{cautions}"
