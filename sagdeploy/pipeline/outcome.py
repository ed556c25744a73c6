"""How one slide of a batch ended; every slide has exactly one outcome."""

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sagdeploy.errors import NotAnalysableError, OutputError, SagError

BUG = 1
BATCH_FAILED = 8

logger = logging.getLogger(__name__)

Status = Literal["done", "not_analysable", "failed"]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class SlideOutcome:
    """How one slide ended."""

    slide_id: str
    status: Status
    exit_code: int
    """0, or the exit code that this slide alone would give."""

    message: str
    """What was done, or why not, in one line."""

    bound: str | None = None
    """By what its tiles were, and to which share of the time: `extractor-bound 91 %`."""


Report = Callable[[SlideOutcome], object]
"""Told of each slide as it ends."""


def each_slide(
    items: Iterable[Item],
    slide_id: Callable[[Item], str],
    work: Callable[[Item], str],
    path: Callable[[Item], Path | None] = lambda _: None,
) -> Iterator[SlideOutcome]:
    """Outcomes of `work` on each item, in order; a bad slide never stops the rest.

    work: what is done for one slide; returns a message, raises SagError
    path: of the slide's file, as in `outcome_of`
    Raises OutputError as it comes: nothing more could be written for the other slides either.
    """
    for item in items:
        name, at = slide_id(item), path(item)
        yield outcome_of(name, lambda item=item: work(item), at)  # type: ignore[misc]


def outcome_of(slide_id: str, work: Callable[[], str], path: Path | None = None) -> SlideOutcome:
    """The outcome of `work` for one slide.

    path: of the slide, which may name a patient: messages call the slide by its id instead
    """
    try:
        return SlideOutcome(slide_id, "done", 0, work())
    except OutputError:
        raise
    except SagError as error:
        status: Status = "not_analysable" if isinstance(error, NotAnalysableError) else "failed"
        told = one_line(error, place=False)
        message = without_path(told, path, slide_id) if path else told
        message = message.removeprefix(f"{slide_id}: ")
        return SlideOutcome(slide_id, status, error.exit_code, message)
    except Exception as error:
        logger.debug("%s: a bug in sagdeploy", slide_id, exc_info=error)
        return SlideOutcome(slide_id, "failed", BUG, bug_line(error))


def exit_code(outcomes: Sequence[SlideOutcome], slides: int | None = None) -> int:
    """0 if all is done, a lone slide's own code, else 8; 1 after a bug.

    slides: how many there were, where the batch was stopped before some of them
    """
    codes = {outcome.exit_code for outcome in outcomes}
    if BUG in codes or codes <= {0}:
        return max(codes & {BUG}, default=0)
    lone = max(slides or 0, len(outcomes)) == 1
    return outcomes[0].exit_code if lone else BATCH_FAILED


def one_line(error: SagError, *, place: bool = True) -> str:
    """An error, with its place if it may be told, and its hint, without control characters."""
    text = str(error) if place else error.message
    text = f"{text}; {error.hint}" if error.hint else text
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def bug_line(error: Exception) -> str:
    """What kind of unexpected error came up and where in our code, in one line.

    Not its message: whoever wrote that did not know that it must name no path and no patient.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "sagdeploy" in Path(frame.filename).parts]
    place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return f"a bug in sagdeploy: {type(error).__name__}{place}; see --debug"


def without_path(text: str, path: Path, slide_id: str) -> str:
    """`text` with the slide's id wherever it names the slide's file or folder."""
    folders = {path.parent, path.absolute().parent} - {Path(".")}
    for folder in sorted(map(str, folders), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    escaped = path.name.encode("unicode_escape").decode()
    spaced = " ".join("".join(c if c.isprintable() else " " for c in path.name).split())
    for name in (path.name, escaped, spaced):
        text = text.replace(name, slide_id)
    return text.replace(f"{path.stem}/", "")
