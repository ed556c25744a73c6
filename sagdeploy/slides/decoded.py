"""Decoded tiles that threads share: each decoded once, the latest kept.

Tiles lie in slabs, and go slab by slab, the oldest first. The next slab takes over the memory:
new memory, which the kernel hands out page by page, would cost a tenth of decoding into it.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Key = TypeVar("Key")

SLAB_BYTES: Final = 4 * 2**20
"""Forgotten at once: little of what is kept, and many tiles."""


@dataclass(slots=True, eq=False)
class _Slab(Generic[Key]):
    """Room for tiles of one shape."""

    memory: Pixels
    tiles: Pixels
    """The same memory as (n, h, w, 3)."""

    keys: list[Key] = field(default_factory=list)
    """Of the tiles in it, in their order."""

    users: int = 0
    """How many threads decode into it or copy from it; only without any it may go."""


class _Tile(NamedTuple, Generic[Key]):
    """Where a tile is."""

    slab: _Slab[Key]
    pixels: Pixels


class DecodedTiles(Generic[Key]):
    """Tiles by key, in at most `capacity` bytes.

    In more only where so many slabs are in use at once, or where a tile is larger than a slab.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._is_done = threading.Condition(self._lock)
        """Told when a tile is no longer at work."""
        self._spare = list(np.empty((capacity // SLAB_BYTES, SLAB_BYTES), np.uint8))
        """Memory of slabs that were, or will be; at once, so that the kernel gives huge pages."""
        self._slabs: list[_Slab[Key]] = []
        self._ready: dict[Key, _Tile[Key]] = {}
        self._at_work: set[Key] = set()

    @property
    def held_bytes(self) -> int:
        """Memory that is kept."""
        return sum(slab.memory.nbytes for slab in self._slabs)

    def copy(
        self,
        key: Key,
        part: tuple[slice, slice],
        out: Pixels,
        *,
        shape: tuple[int, int, int],
        decode: Callable[[Key, Pixels], None],
    ) -> None:
        """Fill `out` with rows and columns of a tile; waits where another thread decodes it.

        shape:  of the tile
        decode: fills an array with the tile of a key; after an error it is tried anew
        """
        tile = self._hold(key, shape, decode)
        try:
            out[:] = tile.pixels[part]
        finally:
            with self._lock:
                tile.slab.users -= 1

    def _hold(
        self, key: Key, shape: tuple[int, int, int], decode: Callable[[Key, Pixels], None]
    ) -> _Tile[Key]:
        """The tile of a key, its slab in use by one more."""
        with self._lock:
            while key in self._at_work:
                self._is_done.wait()
            tile = self._ready.get(key)
            is_new = tile is None
            if tile is None:
                tile = self._place(key, shape)
                self._at_work.add(key)
            tile.slab.users += 1
        if is_new:
            self._decode(key, tile, decode)
        return tile

    def _decode(self, key: Key, tile: _Tile[Key], decode: Callable[[Key, Pixels], None]) -> None:
        is_whole = False
        try:
            decode(key, tile.pixels)
            is_whole = True
        finally:  # whoever waits must not wait for ever, whatever happened
            with self._lock:
                self._at_work.remove(key)
                if is_whole:
                    self._ready[key] = tile
                else:
                    tile.slab.users -= 1
                self._is_done.notify_all()

    def _place(self, key: Key, shape: tuple[int, int, int]) -> _Tile[Key]:
        """In the latest slab of a shape if that has room, or in a new one."""
        slab = next((slab for slab in reversed(self._slabs) if slab.tiles.shape[1:] == shape), None)
        if slab is None or len(slab.keys) == len(slab.tiles):
            slab = self._new_slab(shape)
        slab.keys.append(key)
        return _Tile(slab, slab.tiles[len(slab.keys) - 1])

    def _new_slab(self, shape: tuple[int, int, int]) -> _Slab[Key]:
        size = math.prod(shape)
        memory = self._memory(max(SLAB_BYTES, size))
        room = memory.size // size
        slab: _Slab[Key] = _Slab(memory, memory[: room * size].reshape(room, *shape))
        self._slabs.append(slab)
        return slab

    def _memory(self, size: int) -> Pixels:
        """Room for a slab; the oldest that nobody uses go where there is no more."""
        for slab in [slab for slab in self._slabs if not slab.users]:
            if self.held_bytes + size <= self._capacity:
                break
            self._drop(slab)
        return self._spare.pop() if self._spare and size == SLAB_BYTES else np.empty(size, np.uint8)

    def _drop(self, slab: _Slab[Key]) -> None:
        self._slabs.remove(slab)
        for key in slab.keys:
            self._ready.pop(key, None)
        if slab.memory.size == SLAB_BYTES:
            self._spare.append(slab.memory)
