"""Ask a failing server again: where it is safe, for a bounded time, never all at once."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from sagdeploy.errors import EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")
SHORTEST_S, LONGEST_S = 0.1, 5.0
"""Wait after the first fault, doubled after each; and its end."""


class TransientError(EngineError):
    """A fault that asking again may mend."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        place: str = "",
        counts: bool = True,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint, place=place)
        self.counts = counts
        """False for a lost connection: a server that restarts is waited for, not counted out."""
        self.retry_after_s = retry_after_s
        """What the server asks for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a failing server is asked again."""

    first_s: float = 10.0
    """No attempt starts later than this after the first fault of a server never reached."""

    retry_s: float = 60.0
    """The same for one that has answered before: long enough for a restart."""

    attempts: int = 5
    """Most attempts that may end in a fault that counts."""


def persist(ask: Callable[[], T], *, patience: Patience, budget_s: float, stop: Event) -> T:
    """What `ask` returns, asked again after each TransientError while patience lasts.

    budget_s: no attempt starts later than this after the first fault
    stop:     ends the waiting, and with it the attempts
    """
    first_fault = None
    counted, lost = 0, 0
    while True:
        try:
            return ask()
        except TransientError as fault:
            first_fault = first_fault or time.monotonic()
            counted, lost = counted + fault.counts, lost + (not fault.counts)
            wait_s = max(_backoff(counted + lost), fault.retry_after_s)
            late = time.monotonic() + wait_s > first_fault + budget_s
            if late or counted >= patience.attempts or stop.wait(wait_s):
                raise EngineError(_told(fault, counted + lost), hint=fault.hint) from fault
            logger.warning("%s: asking again after %.1f s", fault, wait_s)


def _backoff(faults: int) -> float:
    longest = min(LONGEST_S, SHORTEST_S * 2.0 ** min(faults - 1, 10))
    return random.uniform(longest / 2, longest)  # apart, so that clients do not come back together


def _told(fault: TransientError, attempts: int) -> str:
    return f"{fault} (asked {attempts} times)" if attempts > 1 else str(fault)
