"""Slides that stay open between requests, each for several readers at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sagdeploy.errors import SlideError
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide

KEPT = 4
"""Open slides that nobody reads; each may hold a cache of decoded tiles."""


@dataclass(slots=True, eq=False)
class _Loan:
    slide: Slide
    readers: int = 0


class OpenSlides:
    """Lends slides by path, and closes those that were longest unused.

    A slide is never closed while it is read: that would end the process.
    """

    def __init__(self) -> None:
        self._loans: dict[Path, _Loan] = {}
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, path: Path) -> Iterator[Slide]:
        """The open slide of a file; raises SlideError as `open_isolated` does."""
        loan = self._take(path)
        try:
            yield loan.slide
        except SlideError:
            with self._lock:  # OpenSlide's errors latch: the next reader opens it anew
                if self._loans.get(path) is loan:
                    del self._loans[path]
            raise
        finally:
            self._give_back(loan)

    def close(self) -> None:
        """Close every slide that nobody reads, and the others as they come back."""
        with self._lock:
            loans, self._loans = list(self._loans.values()), {}
            for loan in loans:
                if not loan.readers:
                    loan.slide.close()

    def _take(self, path: Path) -> _Loan:
        with self._lock:
            loan = self._loans.pop(path, None) or _Loan(open_isolated(path))
            self._loans[path] = loan  # last in order: most lately used
            loan.readers += 1
            return loan

    def _give_back(self, loan: _Loan) -> None:
        with self._lock:
            loan.readers -= 1
            if loan not in self._loans.values() and not loan.readers:
                loan.slide.close()
            idle = [path for path, kept in self._loans.items() if not kept.readers]
            for path in idle[: max(0, len(idle) - KEPT)]:
                self._loans.pop(path).slide.close()
