"""What a run over many slides did, as `run.json` says it.

It alone holds times, and changes from run to run; all other results are the same bytes whenever
and however often they are made. Its schema is published as `schemas/run.schema.json`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError

from sagdeploy.config import Strict, problems
from sagdeploy.files import SAFE_NAME, canonical_json

RUN_FILE = "run.json"

Command = Literal["predict", "extract"]
SlideId = Annotated[str, Field(pattern=f"^{SAFE_NAME.pattern}$")]
RunStatus = Literal["running", "ended", "stopped", "interrupted"]


class SlideRow(Strict):
    """What became of one slide."""

    slide_id: SlideId
    status: Literal["done", "not_analysable", "failed", "unfinished"]
    """`unfinished`: the run ended before, or has not come to it yet."""

    exit_code: int | None = None
    message: str = ""
    seconds: float | None = None
    bound: str | None = None
    """SlideOutcome.bound"""

    sha256: str | None = None
    """Of the slide's record, or of the features in its bag; None where none is known. That of an
    earlier run where this one wrote nothing."""


class RunRecord(Strict):
    """One run of `predict` or `extract`."""

    schema_version: Literal[1] = 1
    command: Command
    status: RunStatus
    """`stopped`: by an error that concerns all slides, or by --fail-fast; `interrupted`: by Ctrl-C
    or SIGTERM. `running` of a process that is no more: it was killed."""

    pid: int
    started: str
    ended: str | None = None
    sagdeploy: str
    engine: str
    model: str
    model_versions: tuple[int, ...]
    options: dict[str, JsonValue]
    exit_code: int | None = None
    """None unless the run ended."""

    slides: tuple[SlideRow, ...]
    earlier: dict[SlideId, str] = Field(default_factory=dict)
    """SHA-256 of what earlier runs left here of slides that this run has not, as in `slides`."""

    predictions_sha256: str | None = None
    sha256: str = ""
    """Of this record as canonical JSON without it: a changed byte shows."""

    def sealed(self) -> Self:
        """The record with its own SHA-256."""
        return self.model_copy(update={"sha256": self.seal()})

    def seal(self) -> str:
        """The SHA-256 that the record has to have."""
        said = self.model_dump(mode="json") | {"sha256": ""}
        return hashlib.sha256(canonical_json(said).encode()).hexdigest()

    def hashes(self) -> dict[str, str]:
        """SHA-256 by slide of all that is known to be written, earlier or in this run."""
        written = {row.slide_id: row.sha256 for row in self.slides if row.sha256}
        return self.earlier | written


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run as it begins."""

    command: Command
    engine: str
    """Without its address or folder."""

    model: str
    options: dict[str, JsonValue]


def read_run(path: Path) -> RunRecord:
    """The journal in a file; ValueError says how it is not as it was written, OSError why not."""
    data = path.read_bytes()
    try:
        record = RunRecord.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(problems(error)) from error
    said: dict[str, Any] = record.model_dump(mode="json")
    if record.seal() != record.sha256 or canonical_json(said).encode() != data:
        raise ValueError("does not have the SHA-256 that it names")
    return record


def run_schema() -> dict[str, Any]:
    """JSON Schema of the record, as it is published."""
    schema = RunRecord.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
