"""The journal of a run is checked by its own hash and by a published schema."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from sagdeploy.errors import OutputError
from sagdeploy.files import canonical_json
from sagdeploy.pipeline.journal import sole_run, sole_writer
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.run import RUN_FILE, RunFacts, read_run, run_schema

SCHEMA = Path(__file__).parents[2] / "schemas" / "run.schema.json"
FACTS = RunFacts("predict", "ONNX Runtime", "sag", {"mpp": None})
EXTRACTION = replace(FACTS, command="extract")
DONE = SlideOutcome("a", "done", 0, "naevus 0.9")


class StopError(BaseException):
    """As a signal is raised."""


def test_the_published_schema_is_the_journal_s() -> None:
    assert SCHEMA.read_text() == canonical_json(run_schema()), (
        "write it again: write_json(Path('schemas/run.schema.json'), run_schema())"
    )


def test_a_journal_follows_the_schema_while_it_runs_and_when_it_ended(tmp_path: Path) -> None:
    with sole_run(tmp_path, FACTS, ["a", "b"]) as journal:
        running = json.loads((tmp_path / RUN_FILE).read_text())
        journal.add(DONE, seconds=1.23456, sha256="ab", version=3)
    ended = json.loads((tmp_path / RUN_FILE).read_text())
    for record in (running, ended):
        jsonschema.Draft202012Validator(run_schema()).validate(record)
    assert (running["status"], running["exit_code"], running["ended"]) == ("running", None, None)
    assert (ended["status"], ended["exit_code"], ended["model_versions"]) == ("ended", 0, [3])
    assert [row["status"] for row in ended["slides"]] == ["done", "unfinished"]


@pytest.mark.parametrize(
    ("error", "status"), [(StopError, "interrupted"), (OutputError("full"), "stopped")]
)
def test_a_journal_says_what_ended_the_run(
    error: BaseException, status: str, tmp_path: Path
) -> None:
    def run_until_error() -> None:
        with sole_run(tmp_path, FACTS, ["a", "b"]) as journal:
            journal.add(DONE, seconds=1)
            raise error

    with pytest.raises((StopError, OutputError)):
        run_until_error()
    run = read_run(tmp_path / RUN_FILE)
    assert (run.status, run.exit_code) == (status, None)
    assert [row.status for row in run.slides] == ["done", "unfinished"]


def test_the_next_run_knows_what_was_written_before(tmp_path: Path) -> None:
    with sole_run(tmp_path, FACTS, ["a"]) as journal:
        journal.add(DONE, seconds=1, sha256="ab")
    for _ in range(2):  # and hands it on, where it does not come to the slide
        with sole_run(tmp_path, FACTS, ["a", "b"]) as journal:
            assert journal.known() == {"a": "ab"}


def test_a_run_over_some_slides_hands_on_what_is_known_of_the_others(tmp_path: Path) -> None:
    with sole_run(tmp_path, EXTRACTION, ["a", "b"]) as journal:
        journal.add(DONE, seconds=1, sha256="ab")
        journal.add(replace(DONE, slide_id="b"), seconds=1, sha256="cd")
    for _ in range(2):
        with sole_run(tmp_path, EXTRACTION, ["b"]) as journal:
            pass
    assert read_run(tmp_path / RUN_FILE).earlier == {"a": "ab"}
    with sole_run(tmp_path, EXTRACTION, ["a", "b", "c"]) as journal:
        assert journal.known() == {"a": "ab", "b": "cd"}
    assert read_run(tmp_path / RUN_FILE).earlier == {}


def test_what_is_known_of_a_slide_outlives_a_run_in_which_it_failed(tmp_path: Path) -> None:
    with sole_run(tmp_path, EXTRACTION, ["a"]) as journal:
        journal.add(DONE, seconds=1, sha256="ab")
    with sole_run(tmp_path, EXTRACTION, ["a"]) as journal:
        journal.add(SlideOutcome("a", "failed", 3, "a.svs: no such file"), seconds=1)
    with sole_run(tmp_path, EXTRACTION, ["a"]) as journal:
        assert journal.known() == {"a": "ab"}


def test_the_journal_of_another_command_says_nothing(tmp_path: Path) -> None:
    with sole_run(tmp_path, FACTS, ["a"]) as journal:
        journal.add(DONE, seconds=1, sha256="ab")
    with sole_run(tmp_path, EXTRACTION, ["b"]) as journal:
        assert journal.known() == journal.earlier == {}


def test_a_journal_that_was_changed_is_not_trusted(tmp_path: Path) -> None:
    with sole_run(tmp_path, FACTS, ["a"]) as journal:
        journal.add(DONE, seconds=1, sha256="ab")
    path = tmp_path / RUN_FILE
    path.write_text(path.read_text().replace('"ab"', '"ac"'))
    with pytest.raises(ValueError, match="SHA-256"):
        read_run(path)
    with sole_run(tmp_path, FACTS, ["a"]) as journal:
        assert journal.known() == {}


def test_the_lock_of_a_writer_that_is_gone_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with sole_writer(tmp_path):
            pass


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".partial-x").mkdir()
    with sole_run(tmp_path, FACTS, []):
        assert not (tmp_path / ".partial-x").exists()


def test_what_a_killed_worker_left_is_swept_at_the_end_of_its_run(tmp_path: Path) -> None:
    with sole_run(tmp_path, FACTS, ["a"]):
        (tmp_path / ".partial-x").mkdir()
    assert not (tmp_path / ".partial-x").exists()
    with sole_run(tmp_path, FACTS, ["a"]) as journal:
        (tmp_path / ".partial-x").mkdir()
        journal.stop()
    assert (tmp_path / ".partial-x").exists()  # of a worker elsewhere, perhaps
