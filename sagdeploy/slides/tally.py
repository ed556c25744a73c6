"""How many pixels were read of a slide, and how many of those its file does not have."""

from dataclasses import dataclass
from threading import Lock
from typing import Self


@dataclass(frozen=True, slots=True)
class PixelCount:
    """Level pixels that lie on the slide; those beyond its edges count nowhere."""

    read: int = 0
    missing: int = 0
    """Of those read: without data in the file, as they were never scanned, or are lost."""

    def __add__(self, other: Self) -> "PixelCount":
        return PixelCount(self.read + other.read, self.missing + other.missing)

    def __sub__(self, other: Self) -> "PixelCount":
        return PixelCount(self.read - other.read, self.missing - other.missing)

    @property
    def missing_share(self) -> float:
        """Of those read; 0 where there are none."""
        return self.missing / self.read if self.read else 0.0


class Tally:
    """A count that threads add to at once."""

    def __init__(self) -> None:
        self.count = PixelCount()
        self._lock = Lock()

    def add(self, count: PixelCount) -> None:
        """Add what was read meanwhile."""
        with self._lock:
            self.count += count
