"""Which file a result belongs to: results name no file, but hold the SHA-256 of its bytes."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from sagdeploy.errors import SlideError
from sagdeploy.files import sha256_of
from sagdeploy.pipeline.inputs import collect_slides
from sagdeploy.report.record import SlideRecord
from sagdeploy.slides.isolation import open_isolated

Identity = tuple[Path, int, int]
"""A file as it is now: path, bytes, time of its last change."""


class SlideFinder:
    """Finds slides among files and in folders, when they are asked for.

    A file is hashed once, and only where its name or its size in pixels fits a result.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = collect_slides(paths) if paths else ()
        self._hashes: dict[Identity, str] = {}
        self._sizes: dict[Identity, tuple[int, int] | None] = {}
        self._lock = threading.Lock()

    def find(self, slide_id: str, slide: SlideRecord) -> Path | None:
        """The file whose bytes are those that were diagnosed, or None."""
        with self._lock:
            for path in self._candidates(slide_id, slide.size_l0):
                if self._hash(path) == slide.sha256:
                    return path
        return None

    def _candidates(self, slide_id: str, size_l0: tuple[int, int]) -> Iterator[Path]:
        """Files that may be the slide: the one of its name first, then those of its size."""
        files = [file for file in self._files if file.path.is_file()]
        yield from (file.path for file in files if file.slide_id == slide_id)
        for file in files:
            if file.slide_id != slide_id and self._size_l0(file.path) == size_l0:
                yield file.path

    def _hash(self, path: Path) -> str:
        identity = _identity(path)
        if identity not in self._hashes:
            self._hashes[identity] = sha256_of(path)
        return self._hashes[identity]

    def _size_l0(self, path: Path) -> tuple[int, int] | None:
        identity = _identity(path)
        if identity not in self._sizes:
            try:
                with open_isolated(path) as slide:
                    self._sizes[identity] = slide.size_l0
            except SlideError:
                self._sizes[identity] = None
        return self._sizes[identity]


def _identity(path: Path) -> Identity:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns
