"""Which file a result belongs to: results name no file, but hold the SHA-256 of its content."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from sagdeploy.errors import SlideError
from sagdeploy.pipeline.inputs import SlideInput, collect_slides
from sagdeploy.report.record import SlideRecord
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.source import content_sha256

Fact = TypeVar("Fact")
Identity = tuple[Path, int, int]
"""A file as it is now: path, bytes, time of its last change."""


class OncePerFile(Generic[Fact]):
    """What is found out of each file once; who asks for it meanwhile waits for that file alone."""

    def __init__(self, find: Callable[[Path], Fact]) -> None:
        self._find = find
        self._facts: dict[Identity, Fact] = {}
        self._busy: dict[Identity, threading.Lock] = {}

    def __call__(self, identity: Identity) -> Fact:
        with self._busy.setdefault(identity, threading.Lock()):
            if identity not in self._facts:
                self._facts[identity] = self._find(identity[0])
            return self._facts[identity]


class SlideFinder:
    """Finds slides among files and in folders, when they are asked for.

    A file is hashed once, and only where its name or its size in pixels fits a result. Where a
    slide was found, no other file is looked at again until that one changes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = collect_slides(paths) if paths else ()
        self._found: dict[tuple[str, str], Identity] = {}
        self._hash = OncePerFile(content_sha256)
        self._size_l0 = OncePerFile(_size_l0)

    def find(self, slide_id: str, slide: SlideRecord) -> Path | None:
        """The file whose bytes are those that were diagnosed, or None.

        Raises SlideError, which names no file, where one that may be it cannot be read.
        """
        key = slide_id, slide.sha256
        try:
            found = self._found.get(key)
            if found is None or _identity(found[0]) != found:
                candidates = self._candidates(slide_id, slide.size_l0)
                found = next((c for c in candidates if self._hash(c) == slide.sha256), None)
        except OSError as error:
            raise SlideError(
                f"{slide_id}: a file that may be it cannot be read: {error.strerror}",
                hint="check the storage",
            ) from error
        if found is None:
            return None
        self._found[key] = found
        return found[0]

    def _candidates(self, slide_id: str, size_l0: tuple[int, int]) -> Iterator[Identity]:
        """Files that may be the slide: the one of its name first, then those of its size."""
        yield from _present(file for file in self._files if file.slide_id == slide_id)
        for identity in _present(file for file in self._files if file.slide_id != slide_id):
            if self._size_l0(identity) == size_l0:
                yield identity


def _present(files: Iterable[SlideInput]) -> Iterator[Identity]:
    """Those that are there now."""
    for file in files:
        if identity := _identity(file.path):
            yield identity


def _identity(path: Path) -> Identity | None:
    """None where it is no file."""
    if not path.is_file():
        return None
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def _size_l0(path: Path) -> tuple[int, int] | None:
    try:
        with open_isolated(path) as slide:
            return slide.size_l0
    except SlideError:
        return None
