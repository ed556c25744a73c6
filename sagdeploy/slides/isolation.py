"""A slide whose pixels are decoded in another process, so that a hostile file harms no other.

What a slide may do to the C libraries that decode it, and to memory, ends with one SlideError.
The pixels are those of `slides.slide`, bit for bit: the same code reads them over there.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import count
from mmap import mmap
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from sagdeploy.errors import SlideError
from sagdeploy.slides.decoder import OpenedSlide
from sagdeploy.slides.decoding import Decoder, Limits
from sagdeploy.slides.library import printable_name
from sagdeploy.slides.reader import Way
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tally import PixelCount
from sagdeploy.slides.wire import Message

OPENED = TypeAdapter(OpenedSlide)
COUNT = TypeAdapter(PixelCount)

Buffers = tuple[NDArray[np.uint8], ...]
T = TypeVar("T")


class IsolatedSlide(Slide):
    """A slide in a process of its own; made by `open_isolated`, closed by leaving its `with` block.

    Threads may read from it at once. Where the process dies, is too slow or wants too much
    memory, every reader gets a SlideError that says so, and the slide is dead.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.name = printable_name(path.name)
        self._decoder = Decoder(path, name=self.name, limits=limits)
        self._shared: dict[int, tuple[int, int]] = {}
        """First and last address of what is shared, by number."""

        self._numbers = count()
        opened = self._understood(OPENED, self._decoder.opened)
        for field in fields(OpenedSlide):
            setattr(self, field.name, getattr(opened, field.name))

    def close(self) -> None:
        """End the process."""
        self._decoder.close()

    @property
    def reader(self) -> Way:
        """Who decodes level 0, as `Slide.reader`."""
        way: Way = self._decoder.order({"do": "reader"})["reader"]
        return way

    @property
    def tiles_read(self) -> PixelCount:
        """Pixels that were read, as `Slide.tiles_read`."""
        return self._understood(COUNT, self._decoder.order({"do": "tiles_read"}))

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A region as RGB (h, w, 3), as `Slide.read` gives it."""
        pixels = np.empty((size_px[1], size_px[0], 3), np.uint8)
        region = {"xy_l0": _whole(xy_l0), "size_l0": _whole(size_l0), "size_px": _whole(size_px)}
        self._decoder.ask({"do": "read"} | region, pixels=pixels)
        return pixels

    def read_tiles(
        self,
        xy_l0: NDArray[np.int64],
        *,
        size_l0: tuple[int, int],
        size_px: tuple[int, int],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill `out` as `Slide.read_tiles` does; without a copy if it is one of `buffers`."""
        place = self._place(out)
        if place is None:
            with self.buffers(1, out.shape) as (shared,):
                self.read_tiles(xy_l0, size_l0=size_l0, size_px=size_px, out=shared)
                out[:] = shared
            return
        tiles = {
            "xy_l0": xy_l0.tolist(),
            "size_l0": _whole(size_l0),
            "size_px": _whole(size_px),
        }
        memory, offset = place
        self._decoder.ask({"do": "read_tiles", "memory": memory, "offset": offset} | tiles)

    @contextmanager
    def buffers(self, count: int, shape: tuple[int, ...]) -> Iterator[Buffers]:
        """Arrays in memory that both processes see."""
        size = int(np.prod(shape))
        number = next(self._numbers)
        memory = self._share(number, max(1, count * size))
        first = np.frombuffer(memory, np.uint8).ctypes.data
        self._shared[number] = first, first + count * size
        try:
            yield tuple(np.ndarray(shape, np.uint8, memory, i * size) for i in range(count))
        finally:
            del self._shared[number]
            with suppress(SlideError):  # a dead decoder has forgotten
                self._decoder.order({"do": "forget", "memory": number})

    def _understood(self, kind: TypeAdapter[T], answer: Message) -> T:
        try:
            return kind.validate_python(answer)
        except ValidationError as error:
            self.close()
            raise SlideError(f"{self.name}: its decoder talks nonsense") from error

    def _share(self, number: int, size: int) -> mmap:
        """Fresh memory that has no name, so that it goes with the last who uses it."""
        with _anonymous(size) as descriptor:
            order = {"do": "share", "memory": number, "bytes": size}
            self._decoder.order(order, descriptor=descriptor)
            return mmap(descriptor, size)

    def _place(self, array: NDArray[np.uint8]) -> tuple[int, int] | None:
        """Number and offset of the shared memory where an array lies."""
        start = array.ctypes.data
        for number, (first, last) in list(self._shared.items()):
            if first <= start and start + array.nbytes <= last and array.flags.c_contiguous:
                return number, start - first
        return None


def open_isolated(path: Path, limits: Limits | None = None) -> IsolatedSlide:
    """The slide in a file, opened and read in a process of its own.

    SlideError says why it is refused, as `open_slide` does, or what became of the process.
    """
    return IsolatedSlide(path, limits or Limits())


@contextmanager
def _anonymous(size: int) -> Iterator[int]:
    """A file of `size` bytes without a name."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            yield file.fileno()
        return
    descriptor = os.memfd_create("tiles", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        # Whoever cuts shared memory short kills the others who use it.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        yield descriptor
    finally:
        os.close(descriptor)


def _whole(numbers: Sequence[int]) -> list[int]:
    return [int(number) for number in numbers]
