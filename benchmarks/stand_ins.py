"""Readers and extractors that take no time, or a known one."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sagdeploy.pipeline.stream import Infer, TileReader


class Held(TileReader):
    """A reader whose tiles lie in the buffers already."""

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Black."""
        return np.zeros((*size_px[::-1], 3), np.uint8)

    def read_tiles(
        self,
        xy_l0: NDArray[np.int64],
        *,
        size_l0: tuple[int, int],
        size_px: tuple[int, int],
        out: NDArray[np.uint8],
    ) -> None:
        """Nothing is to be done."""

    @contextmanager
    def buffers(
        self, count: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Noise."""
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        yield tuple(noise.copy() for _ in range(count))


def nothing(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Infers at once."""
    return np.zeros((len(batch), 1), np.float32)


def device(tiles_per_s: float) -> Infer:
    """Something that computes elsewhere: the batches that it was sent, one after the other."""
    lock, free = threading.Lock(), 0.0

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal free
        with lock:
            free = done = max(free, time.perf_counter()) + len(batch) / tiles_per_s
        time.sleep(max(0.0, done - time.perf_counter()))
        return nothing(batch)

    return infer
