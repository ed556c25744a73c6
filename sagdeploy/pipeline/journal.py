"""The journal of a run over many slides into a folder that it alone writes.

`run.json` says at any time what ran, how far it came and what failed.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from sagdeploy.errors import OutputError
from sagdeploy.files import sweep, write_json
from sagdeploy.pipeline.outcome import SlideOutcome, exit_code
from sagdeploy.pipeline.run import (
    RUN_FILE,
    RunFacts,
    RunRecord,
    RunStatus,
    SlideRow,
    read_run,
)

LOCK_FILE = ".lock"
WRITE_EVERY_S = 2.0
"""A killed run's journal is this far behind its results at most; they count, not it."""

HOLDER_WAIT_S = 1.0
"""How long the holder of a lock may take to say who it is."""


Table = Callable[[Collection[str]], str | None]
"""Writes a table that goes with the journal, given the slides that this knows to be finished."""


class Journal:
    """Keeps `run.json` up to date; made by `sole_run`."""

    def __init__(self, path: Path, facts: RunFacts, slide_ids: Sequence[str], table: Table) -> None:
        self._previous = _previous(path, facts)
        self._path = path
        self._facts = facts
        known = self.known()
        self.earlier = {name: known[name] for name in known.keys() - set(slide_ids)}
        """RunRecord.earlier"""
        self._rows = {
            name: SlideRow(slide_id=name, status="unfinished", sha256=known.get(name))
            for name in slide_ids
        }
        self._outcomes: list[SlideOutcome] = []
        self._versions: set[int] = set()
        self._table = table
        self._started = _utc(time.time())
        self._written_s = 0.0
        self.is_stopped = False

    def __enter__(self) -> Self:
        self._write("running")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write("stopped" if self.is_stopped else "ended")
        else:
            with suppress(OutputError):  # what ends the run is the error that counts
                self._write("stopped" if issubclass(kind, Exception) else "interrupted")

    def known(self) -> dict[str, str]:
        """SHA-256 by slide of what this command's runs before this one have written."""
        return self._previous.hashes() if self._previous else {}

    def forget(self, slide_ids: Collection[str]) -> None:
        """Note no SHA-256 of what will be replaced.

        Else the journal of a run that is killed could have that of the old result beside the
        new one, which would be taken for changed, and be made once more.
        """
        for name in slide_ids:
            self._rows[name] = SlideRow(slide_id=name, status="unfinished")

    def add(
        self,
        outcome: SlideOutcome,
        *,
        seconds: float,
        sha256: str | None = None,
        version: int | None = None,
    ) -> None:
        """Note how a slide ended, in any order.

        sha256: of what was written for it; None keeps what is known of an earlier run's
        version: of the model that answered
        """
        self._rows[outcome.slide_id] = SlideRow(
            slide_id=outcome.slide_id,
            status=outcome.status,
            exit_code=outcome.exit_code,
            message=outcome.message,
            seconds=round(seconds, 3),
            bound=outcome.bound,
            sha256=sha256 or self._rows[outcome.slide_id].sha256,
        )
        self._outcomes.append(outcome)
        if version is not None:
            self._versions.add(version)
        if time.monotonic() - self._written_s > WRITE_EVERY_S:
            self._write("running")

    def stop(self) -> None:
        """The run ends before its last slide, as it was told to."""
        self.is_stopped = True

    def _write(self, status: RunStatus) -> None:
        ended = status == "ended" or self.is_stopped
        finished = {name for name, row in self._rows.items() if row.status != "unfinished"}
        record = RunRecord(
            command=self._facts.command,
            status=status,
            pid=os.getpid(),
            started=self._started,
            ended=None if status == "running" else _utc(time.time()),
            sagdeploy=version("sagdeploy"),
            engine=self._facts.engine,
            model=self._facts.model,
            model_versions=tuple(sorted(self._versions)),
            options=self._facts.options,
            exit_code=exit_code(self._outcomes, len(self._rows)) if ended else None,
            slides=tuple(self._rows.values()),
            earlier=self.earlier,
            predictions_sha256=self._table(finished),
        )
        write_json(self._path, record.sealed().model_dump(mode="json"))
        self._written_s = time.monotonic()


@contextmanager
def sole_run(
    folder: Path,
    facts: RunFacts,
    slide_ids: Sequence[str],
    *,
    begin: Callable[[Journal], None] = lambda journal: None,
    table: Table = lambda finished: None,
) -> Iterator[Journal]:
    """The journal of a run that alone writes into a folder, swept of what killed runs left.

    begin: looks at what is there before anything is written
    table: writes the table beside the journal, of the slides that are finished by it, and
        returns its SHA-256
    Raises OutputError where the folder cannot be written, or another run writes into it.
    """
    with sole_writer(folder):
        sweep(folder)
        journal = Journal(folder / RUN_FILE, facts, slide_ids, table)
        begin(journal)
        with journal:
            yield journal
        if not journal.is_stopped:  # else a worker elsewhere may not have ended yet
            with suppress(OutputError):
                sweep(folder)  # of what a worker that was killed has left


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, where `sole_run` does not; it leaves no journal.

    The lock of a process that died is free at once. OutputError where another has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_FILE, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"{folder}: another run writes into it: {_holder(folder / RUN_FILE)}",
            hint="wait for it to end, or choose another folder",
        ) from error
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written: {error.strerror or error}", hint="choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _previous(path: Path, facts: RunFacts) -> RunRecord | None:
    """What the last run of the same command left."""
    record = _read_if_whole(path)
    return record if record and record.command == facts.command else None


def _read_if_whole(path: Path) -> RunRecord | None:
    try:
        return read_run(path)
    except (OSError, ValueError):
        return None


def _holder(path: Path) -> str:
    """Who holds the lock, which its journal tells soon after it has it."""
    until = time.monotonic() + HOLDER_WAIT_S
    while time.monotonic() < until:
        record = _read_if_whole(path)
        if record is not None and record.status == "running":
            return f"process {record.pid}, since {record.started}"
        time.sleep(0.05)
    return "one that has just begun, or sagdeploy guide"


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
