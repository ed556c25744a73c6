"""One outcome a slide, and the exit code they add up to."""

from pathlib import Path

import pytest

from sagdeploy.errors import NotAnalysableError, OutputError, SlideError
from sagdeploy.pipeline.outcome import SlideOutcome, each_slide, exit_code, one_line, outcome_of


def done() -> str:
    return "12 tiles"


def fails() -> str:
    raise SlideError("a.svs: cut short", hint="copy it again")


def no_tissue() -> str:
    raise NotAnalysableError("b.svs: no tissue")


def bug() -> str:
    raise KeyError("oops")


def full() -> str:
    raise OutputError("out: no space")


def test_each_error_has_its_outcome() -> None:
    assert outcome_of("a", done) == SlideOutcome("a", "done", 0, "12 tiles")
    assert outcome_of("a", fails) == SlideOutcome(
        "a", "failed", 3, "a.svs: cut short; copy it again"
    )
    assert outcome_of("b", no_tissue) == SlideOutcome("b", "not_analysable", 4, "b.svs: no tissue")


def test_a_bug_in_one_slide_is_that_slides_outcome_and_tells_no_message() -> None:
    outcome = outcome_of("a", bug)
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert "KeyError" in outcome.message
    assert "oops" not in outcome.message


@pytest.mark.parametrize(
    "message",
    [
        "DOE JANE.svs: cut short",
        "{folder}/DOE JANE.svs: cut short",
        "cannot open {folder}/DOE JANE/Slidedat.ini",
    ],
)
def test_a_message_calls_a_slide_by_its_id(message: str, tmp_path: Path) -> None:
    slide = tmp_path / "Oncology" / "DOE JANE.svs"

    def fails() -> str:
        raise SlideError(message.format(folder=slide.parent), hint="copy it again")

    told = outcome_of("case-7", fails, slide).message
    assert "DOE" not in told
    assert "Oncology" not in told
    assert told.endswith("; copy it again")


def test_an_unwritable_output_ends_the_batch() -> None:
    with pytest.raises(OutputError):
        list(each_slide(["a", "b"], str, lambda slide: full()))


def test_a_bad_slide_never_stops_the_rest() -> None:
    work = {"a": fails, "b": done, "c": no_tissue}
    outcomes = list(each_slide(work, str, lambda slide: work[slide]()))
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "not_analysable"]


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0], 0), ([], 0), ([3], 3), ([4], 4), ([0, 0], 0), ([0, 3], 8), ([3, 3], 8), ([3, 1], 1)],
)
def test_outcomes_add_up_to_an_exit_code(codes: list[int], expected: int) -> None:
    assert exit_code([SlideOutcome("s", "failed", code, "") for code in codes]) == expected


def test_messages_are_one_printable_line() -> None:
    error = SlideError("bad\n\x1b[31mname\x07.svs", hint="mend\tit")
    assert one_line(error) == "bad [31mname .svs; mend it"


def test_a_batch_that_stopped_after_one_slide_was_a_batch() -> None:
    assert exit_code([SlideOutcome("s", "failed", 3, "")], slides=5) == 8
