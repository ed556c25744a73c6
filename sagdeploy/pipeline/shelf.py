"""Where the features of a slide wait for its last tile: in memory, or in a file if they are many.

The file has no name and goes with the array. What was written is handed to the kernel, so that
a process does not grow with the slide that it reads.
"""

import logging
import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LARGE_BYTES = 16 << 20
"""From here on features lie in a file, of the folder that TMPDIR names."""

HANDED_OVER_BYTES = 4 << 20
"""So many are written between two times that they are handed to the kernel."""


class FeatureShelf:
    """Features float32 (N, E), put there in any order."""

    def __init__(self, tiles: int, features: int) -> None:
        self._file = _file_of(4 * tiles * features)
        self._since_bytes = 0
        shape = (tiles, features)
        if self._file is None:
            self.features: NDArray[np.float32] = np.empty(shape, np.float32)
        else:
            self.features = np.ndarray(shape, np.float32, self._file)
        """All of them, once they were put."""

    def put(self, numbers: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Take the features (n, E) of the tiles of these numbers (n,)."""
        self.features[numbers] = features
        self._since_bytes += features.nbytes
        if self._file is not None and self._since_bytes >= HANDED_OVER_BYTES:
            self._file.madvise(mmap.MADV_DONTNEED)  # it is in the file's pages
            self._since_bytes = 0


def _file_of(size_bytes: int) -> mmap.mmap | None:
    """A file for as much, in memory; None where memory itself serves better, or no disk does."""
    if size_bytes < LARGE_BYTES or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is told here, not later
            return mmap.mmap(file.fileno(), size_bytes)
    except OSError as error:
        log.info("features of %d MiB stay in memory: %s", size_bytes >> 20, error.strerror)
        return None
