"""Whether the results in a folder are still those that were written.

`run.json` holds its own SHA-256, that of `predictions.csv` and those of the slides' records; each
record holds those of the files beside it. So one changed byte anywhere shows. It shows damage and
carelessness: whoever wants to deceive can write all the hashes anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sagdeploy.config import problems
from sagdeploy.errors import ConfigError
from sagdeploy.files import sha256_of
from sagdeploy.pipeline.journal import LOCK_FILE
from sagdeploy.pipeline.run import RUN_FILE, RunRecord, read_run
from sagdeploy.report.folder import RECORD
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.tables import PREDICTIONS

CHANGED = 7
"""Exit code: the storage does not hold what was written to it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written."""

    kind: Literal["changed", "missing", "extra", "unfinished"]
    name: str
    """Path below the folder of the results."""

    what: str = ""
    """More about it, in words."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit saw and found."""

    files: int
    """How many were read."""

    findings: tuple[Finding, ...]


def verify(out: Path) -> Audit:
    """Read every file that `predict` wrote into a folder again, and compare it with its hash."""
    records = {path.parent.name for path in out.glob(f"*/{RECORD}")}
    if not records and not (out / RUN_FILE).is_file():
        raise ConfigError(
            f"{out}: holds no results", hint="name the folder that sagdeploy predict --out wrote"
        )
    findings = [*_journal(out)]
    run = None if findings else read_run(out / RUN_FILE)
    hashes = run.hashes() if run else {}
    slides = sorted(records | set(hashes))
    findings += [*_table(out, run), *_unfinished(run)]
    for slide_id in slides:
        findings += _slide(out / slide_id, hashes.get(slide_id))
    findings += _extra(out, {RUN_FILE, PREDICTIONS, LOCK_FILE, *slides})
    return Audit(sum(path.is_file() for path in out.rglob("*")), tuple(findings))


def _journal(out: Path) -> Iterator[Finding]:
    try:
        read_run(out / RUN_FILE)
    except FileNotFoundError:
        yield Finding("missing", RUN_FILE, "so the records cannot be compared with it")
    except (OSError, ValueError) as error:
        yield Finding("changed", RUN_FILE, str(error))


def _table(out: Path, run: RunRecord | None) -> Iterator[Finding]:
    if not (out / PREDICTIONS).is_file():
        yield Finding("missing", PREDICTIONS)
    elif run and sha256_of(out / PREDICTIONS) != run.predictions_sha256:
        yield Finding("changed", PREDICTIONS)


def _unfinished(run: RunRecord | None) -> Iterator[Finding]:
    """Slides that the last run did not come to; the same command goes on with them."""
    if run and run.status == "running":
        yield Finding("unfinished", RUN_FILE, f"process {run.pid} writes here, or was killed")
    for row in run.slides if run else ():
        if row.status == "unfinished":
            yield Finding("unfinished", row.slide_id)


def _slide(folder: Path, sha256: str | None) -> Iterator[Finding]:
    """What is wrong in a slide's folder. sha256: of its record; None where it is not known."""
    path, name = folder / RECORD, f"{folder.name}/{RECORD}"
    if not path.is_file():
        yield Finding("missing", name)
        return
    try:
        record = PredictionRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        yield Finding("changed", name, problems(error))
        return
    found = sha256_of(path)
    if found != (sha256 or found) or found != record.sha256 or record.slide_id != folder.name:
        yield Finding("changed", name)
    yield from _artefacts(folder, record.artefacts)


def _artefacts(folder: Path, wanted: Mapping[str, str]) -> Iterator[Finding]:
    there = {path.name: path for path in folder.iterdir() if path.name != RECORD}
    for name in sorted({*there, *wanted}):
        if name not in there:
            yield Finding("missing", f"{folder.name}/{name}")
        elif name not in wanted or not there[name].is_file():
            yield Finding("extra", f"{folder.name}/{name}")
        elif sha256_of(there[name]) != wanted[name]:
            yield Finding("changed", f"{folder.name}/{name}")


def _extra(out: Path, known: set[str]) -> Iterator[Finding]:
    for path in sorted(out.iterdir()):
        if path.name not in known:
            yield Finding("extra", path.name)
