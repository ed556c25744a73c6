"""Whether what `predict` or `extract` wrote into a folder is still what was written.

`run.json` holds its own SHA-256, that of `predictions.csv` and those of the slides' records; each
record holds those of the files beside it. So one changed byte of results shows. Of bags it holds
those of their features and places: guidance may come and go. It shows damage and carelessness:
whoever wants to deceive can write all the hashes anew.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sagdeploy.bags.bagfile import read_bag
from sagdeploy.bags.card import CARD_FILE, read_card
from sagdeploy.config import problems
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.files import sha256_of
from sagdeploy.pipeline.bagging import features_sha256
from sagdeploy.pipeline.extract import EXTRACTOR_FILE
from sagdeploy.pipeline.guide import HULLS_SUFFIX
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

    kind: Literal["changed", "missing", "extra", "unfinished", "unreadable"]
    name: str
    """Path below the folder."""

    what: str = ""
    """More about it, in words."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit saw and found."""

    files: int
    """How many are there."""

    findings: tuple[Finding, ...]


def verify(out: Path) -> Audit:
    """Read all that `predict` or `extract` wrote into a folder again, and compare its hashes.

    ConfigError where neither did.
    """
    names = _names(out)
    journal = _journal(out)
    run = journal if isinstance(journal, RunRecord) else None
    records = {name for name in names if os.path.isfile(out / name / RECORD)}
    if run.command == "extract" if run else CARD_FILE in names and not records:
        parts = _bags(out, run)
    elif run or records or PREDICTIONS in names:
        parts = _results(out, run, records)
    else:
        raise ConfigError(
            f"{out}: holds no results", hint="name a folder that sagdeploy predict or extract wrote"
        )
    findings = [journal] if isinstance(journal, Finding) else [*_unfinished(journal)]
    findings += parts
    return Audit(sum(len(files) for _, _, files in os.walk(out)), tuple(findings))


def _names(out: Path) -> set[str]:
    try:
        return {path.name for path in out.iterdir()}
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot be read: {error.strerror or error}",
            hint="name a folder that sagdeploy predict or extract wrote",
        ) from error


def _journal(out: Path) -> RunRecord | Finding:
    try:
        return read_run(out / RUN_FILE)
    except FileNotFoundError:
        return Finding("missing", RUN_FILE, "so nothing can be compared with it")
    except OSError as error:
        return _unreadable(RUN_FILE, error)
    except ValueError as error:
        return Finding("changed", RUN_FILE, str(error))


def _unfinished(run: RunRecord) -> Iterator[Finding]:
    """Slides that the last run did not come to; the same command goes on with them."""
    if run.status == "running":
        yield Finding("unfinished", RUN_FILE, f"process {run.pid} writes here, or was killed")
    for row in run.slides:
        if row.status == "unfinished":
            yield Finding("unfinished", row.slide_id)


def _results(out: Path, run: RunRecord | None, records: set[str]) -> Iterator[Finding]:
    """What is wrong with the results of predict; records: names of the folders with one."""
    hashes = run.hashes() if run else {}
    slides = sorted(records | set(hashes))
    yield from _told(PREDICTIONS, _table(out / PREDICTIONS, run))
    for slide_id in slides:
        yield from _told(slide_id, _slide(out / slide_id, hashes.get(slide_id)))
    yield from _extra(out, {RUN_FILE, PREDICTIONS, LOCK_FILE, *slides})


def _table(path: Path, run: RunRecord | None) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding("missing", path.name)
    elif run and sha256_of(path) != run.predictions_sha256:
        yield Finding("changed", path.name)


def _slide(folder: Path, sha256: str | None) -> Iterator[Finding]:
    """What is wrong in a slide's folder. sha256: of its record; None where it is not known."""
    path, name = folder / RECORD, f"{folder.name}/{RECORD}"
    if not path.is_file():
        yield Finding("missing", name)
        return
    try:
        record = PredictionRecord.model_validate_json(path.read_bytes())
        found = sha256_of(path)
    except ValidationError as error:
        yield Finding("changed", name, problems(error))
        return
    except OSError as error:
        yield _unreadable(name, error)
        return
    if found != (sha256 or found) or found != record.sha256 or record.slide_id != folder.name:
        yield Finding("changed", name)
    there = {path.name for path in folder.iterdir()} - {RECORD}
    for artefact in sorted({*there, *record.artefacts}):
        name = f"{folder.name}/{artefact}"
        yield from _told(name, _artefact(folder / artefact, name, record.artefacts))


def _artefact(path: Path, name: str, wanted: Mapping[str, str]) -> Iterator[Finding]:
    if not os.path.lexists(path):
        yield Finding("missing", name)
    elif path.name not in wanted or not path.is_file():
        yield Finding("extra", name)
    elif sha256_of(path) != wanted[path.name]:
        yield Finding("changed", name)


def _bags(out: Path, run: RunRecord | None) -> Iterator[Finding]:
    """What is wrong with the bags of extract."""
    hashes = run.hashes() if run else {}
    for slide_id, sha256 in sorted(hashes.items()):
        path = out / f"{slide_id}.h5"
        yield from _told(path.name, _bag(path, sha256))
    yield from _told(EXTRACTOR_FILE, _extractor(out))
    if run:
        slides = {*hashes, *(row.slide_id for row in run.slides)}
        names = {f"{slide_id}{suffix}" for slide_id in slides for suffix in (".h5", HULLS_SUFFIX)}
        yield from _extra(out, {RUN_FILE, LOCK_FILE, CARD_FILE, EXTRACTOR_FILE, *names})


def _bag(path: Path, sha256: str) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding("missing", path.name)
        return
    try:
        if features_sha256(read_bag(path)) != sha256:
            yield Finding("changed", path.name, "not the features that were written")
    except BagError as error:
        yield Finding("changed", path.name, str(error).removeprefix(f"{path}: "))


def _extractor(out: Path) -> Iterator[Finding]:
    """What is wrong with the extractor and its card; bags that a server made have a card alone."""
    path = out / EXTRACTOR_FILE
    try:
        card = read_card(out)
    except BagError as error:
        kind: Literal["changed", "missing"] = "changed" if (out / CARD_FILE).exists() else "missing"
        yield Finding(kind, CARD_FILE, str(error).removeprefix(f"{out / CARD_FILE}: "))
        return
    if path.is_file() and sha256_of(path) != card.sha256:
        yield Finding("changed", EXTRACTOR_FILE)


def _extra(out: Path, known: set[str]) -> Iterator[Finding]:
    for name in sorted(_names(out) - known):
        yield Finding("extra", name)


def _told(name: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, the last of which is that `name` cannot be read, where it cannot."""
    try:
        yield from findings
    except OSError as error:
        yield _unreadable(name, error)


def _unreadable(name: str, error: OSError) -> Finding:
    return Finding("unreadable", name, f"cannot be read: {error.strerror or error}")
