"""Where the features of a slide wait for its last tile: in memory, or in a file if they are many.

The file has no name and goes with the array. It is written to, and mapped when all is there, so
that a process does not grow with the slide that it reads.
"""

import logging
import os
import tempfile
from contextlib import ExitStack
from mmap import ACCESS_COPY, mmap
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LARGE_BYTES = 16 << 20
"""From here on features lie in a file, of the folder that TMPDIR names."""


class FeatureShelf:
    """Features float32 (N, E), put there in any order; closed by leaving its `with` block."""

    def __init__(self, tiles: int, features: int) -> None:
        self._shape = tiles, features
        self._file = _file_of(4 * tiles * features)
        self._kept = np.empty(self._shape if self._file is None else 0, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, numbers: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Take the features (n, E) of the tiles of these numbers (n,)."""
        if self._file is None:
            self._kept[numbers] = features
            return
        ends = np.flatnonzero(np.diff(numbers) != 1) + 1
        for first, rows in zip(numbers[[0, *ends]], np.split(features, ends), strict=True):
            self._file.seek(4 * self._shape[1] * int(first))
            self._file.write(np.ascontiguousarray(rows, np.float32).data)

    def all(self) -> NDArray[np.float32]:
        """All of them, once they were put; they outlive the shelf."""
        if self._file is None:
            return self._kept
        self._file.flush()
        return np.ndarray(self._shape, np.float32, mmap(self._file.fileno(), 0, access=ACCESS_COPY))


def _file_of(size_bytes: int) -> IO[bytes] | None:
    """A file for as much; None where memory serves better, or no disk has the room."""
    if size_bytes < LARGE_BYTES or not hasattr(os, "posix_fallocate"):
        return None
    try:
        with ExitStack() as undone:
            file = undone.enter_context(tempfile.TemporaryFile())
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is told here, not later
            undone.pop_all()
            return file
    except OSError as error:
        log.info("features of %d MiB stay in memory: %s", size_bytes >> 20, error.strerror)
        return None
