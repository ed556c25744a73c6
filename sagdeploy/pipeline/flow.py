"""Where the time of a tile stream goes: whether the reader or the extractor bounds it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Flow:
    """Times of one slide's tiles, over all magnifications; filled in while they stream."""

    tiles: int = 0
    seconds: float = 0.0

    reading_s: float = 0.0
    """That workers spent on reading, or waited for others to read; over all workers."""

    inferring_s: float = 0.0
    """The same for the extractor. Whoever is slower has the workers queue up before it."""

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def bound(self) -> str | None:
        """What to make faster, and its share of the workers' time: `extractor-bound 91 %`.

        None where no tile went through.
        """
        total = self.reading_s + self.inferring_s
        if not total:
            return None
        share = self.inferring_s / total
        if share < 0.5:
            return f"reader-bound {100 * (1 - share):.0f} %"
        return f"extractor-bound {100 * share:.0f} %"

    @contextmanager
    def of(self, tiles: int) -> Iterator[None]:
        """A block in which so many tiles stream."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
        self.tiles += tiles

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A worker's block that ends with its batch read."""
        begun = time.perf_counter()
        yield
        with self._lock:
            self.reading_s += time.perf_counter() - begun

    @contextmanager
    def inferring(self) -> Iterator[None]:
        """A worker's block that ends with its batch inferred."""
        begun = time.perf_counter()
        yield
        with self._lock:
            self.inferring_s += time.perf_counter() - begun
