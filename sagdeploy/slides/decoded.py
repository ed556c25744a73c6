"""Decoded tiles that threads share: each decoded once, the latest kept.

Tiles lie in slabs, and go slab by slab, the oldest first. An array of their own each would cost
a third of decoding it again, as the kernel hands out memory page by page; slabs are large enough
for huge pages.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.tileindex import UnfitError

Pixels = NDArray[np.uint8]
Key = TypeVar("Key")

SLAB_BYTES: Final = 8 * 2**20
"""From 4 MiB on numpy asks the kernel for huge pages."""


@dataclass(slots=True, eq=False)
class _Slab(Generic[Key]):
    """Room for tiles of one shape."""

    pixels: Pixels
    keys: list[Key] = field(default_factory=list)
    """Of the tiles in it, in their order."""

    is_kept: bool = True


class DecodedTiles(Generic[Key]):
    """Tiles by key, in at most `capacity` bytes, or in one slab where that is more."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._slabs: deque[_Slab[Key]] = deque()
        self._ready: dict[Key, Pixels] = {}
        self._at_work: dict[Key, Future[Pixels]] = {}

    @property
    def held_bytes(self) -> int:
        """Memory that is kept."""
        return sum(slab.pixels.nbytes for slab in self._slabs)

    def get(
        self, key: Key, shape: tuple[int, int, int], decode: Callable[[Key, Pixels], None]
    ) -> Pixels:
        """The tile of a key, not to be written to; waits where another thread decodes it.

        decode: fills an array of `shape` with the tile of a key; its UnfitError reaches all who
                wait, and is not kept
        """
        with self._lock:
            tile = self._ready.get(key)
            if tile is not None:
                return tile
            theirs = self._at_work.get(key)
            if theirs is None:
                ours = self._at_work[key] = Future()
                slab = self._slab(shape)
                tile = slab.pixels[len(slab.keys)]
                slab.keys.append(key)
        if tile is None:
            assert theirs is not None
            return theirs.result()
        try:
            decode(key, tile)
            ours.set_result(tile)
        except UnfitError as error:
            ours.set_exception(error)
        finally:
            ours.cancel()  # whoever waits must not wait for ever, whatever happened
            with self._lock:
                del self._at_work[key]
                if slab.is_kept and not ours.cancelled() and ours.exception() is None:
                    self._ready[key] = tile
        return ours.result()

    def _slab(self, shape: tuple[int, int, int]) -> _Slab[Key]:
        """The latest slab of a shape if it has room, or a new one in place of the oldest."""
        for slab in reversed(self._slabs):
            if slab.pixels.shape[1:] == shape:
                if len(slab.keys) < len(slab.pixels):
                    return slab
                break
        room = max(1, SLAB_BYTES // (shape[0] * shape[1] * shape[2]))
        slab = _Slab(np.empty((room, *shape), np.uint8))
        while self._slabs and self.held_bytes + slab.pixels.nbytes > self._capacity:
            self._drop(self._slabs.popleft())
        self._slabs.append(slab)
        return slab

    def _drop(self, slab: _Slab[Key]) -> None:
        """Forget a slab; its memory goes when nobody reads from it any more."""
        slab.is_kept = False
        for key in slab.keys:
            self._ready.pop(key, None)
