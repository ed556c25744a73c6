"""How one slide of a batch ended; every slide has exactly one outcome."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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


Report = Callable[[SlideOutcome], object]
"""Told of each slide as it ends."""


def each_slide(
    items: Iterable[Item], slide_id: Callable[[Item], str], work: Callable[[Item], str]
) -> Iterator[SlideOutcome]:
    """Outcomes of `work` on each item, in order; a bad slide never stops the rest.

    work: what is done for one slide; returns a message, raises SagError
    Raises OutputError as it comes: nothing more could be written for the other slides either.
    """
    for item in items:
        yield outcome_of(slide_id(item), lambda item=item: work(item))  # type: ignore[misc]


def outcome_of(slide_id: str, work: Callable[[], str]) -> SlideOutcome:
    """The outcome of `work` for one slide."""
    try:
        return SlideOutcome(slide_id, "done", 0, work())
    except OutputError:
        raise
    except SagError as error:
        status: Status = "not_analysable" if isinstance(error, NotAnalysableError) else "failed"
        return SlideOutcome(slide_id, status, error.exit_code, one_line(error))
    except Exception as error:
        logger.exception("%s: a bug in sagdeploy", slide_id)
        message = f"a bug in sagdeploy: {type(error).__name__}: {error}"
        return SlideOutcome(slide_id, "failed", 1, " ".join(message.split()))


def exit_code(outcomes: Sequence[SlideOutcome]) -> int:
    """0 if all is done, a lone slide's own code, else 8; 1 after a bug."""
    codes = {outcome.exit_code for outcome in outcomes}
    if BUG in codes or codes <= {0}:
        return max(codes & {BUG}, default=0)
    return outcomes[0].exit_code if len(outcomes) == 1 else BATCH_FAILED


def one_line(error: SagError) -> str:
    """An error and its hint as one line without control characters."""
    text = f"{error}; {error.hint}" if error.hint else str(error)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
