"""Decoded tiles that threads share."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.slides.decoded import SLAB_BYTES, DecodedTiles
from sagdeploy.slides.tileindex import UnfitError

SHAPE = (200, 300, 3)
PER_SLAB = SLAB_BYTES // (200 * 300 * 3)
HUGE = (2000, 2000, 3)
WHOLE = (slice(None), slice(None))

Pixels = NDArray[np.uint8]
Decode = Callable[[int, Pixels], None]


def room(capacity: int) -> DecodedTiles[int]:
    return DecodedTiles(capacity)


def read(
    tiles: DecodedTiles[int],
    number: int,
    decode: Decode,
    shape: tuple[int, int, int] = SHAPE,
) -> Pixels:
    """A whole tile."""
    out = np.empty(shape, np.uint8)
    tiles.copy(number, WHOLE, out, shape=shape, decode=decode)
    return out


class Decoder:
    """Fills tiles with their number, and counts."""

    def __init__(self) -> None:
        self.decoded: list[int] = []
        self.memory: set[int] = set()
        """Where it has decoded to."""

    def read(self, tiles: DecodedTiles[int], number: int) -> Pixels:
        return read(tiles, number, self.fill)

    def fill(self, number: int, out: Pixels) -> None:
        self.decoded.append(number)
        self.memory.add(out.ctypes.data)
        out[:] = number % 251


class Meanwhile:
    """Stands for an array, and does something before it is filled."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.pixels = np.empty(0, np.uint8)

    def __setitem__(self, _: slice, pixels: Pixels) -> None:
        self._work()
        self.pixels = pixels.copy()


def test_a_tile_is_decoded_once_and_kept() -> None:
    tiles, decoder = room(4 * SLAB_BYTES), Decoder()
    for number in [3, 4, 3, 4, 4, 3]:
        assert (decoder.read(tiles, number) == number).all()
    assert decoder.decoded == [3, 4]


def test_a_part_is_of_the_rows_and_columns_asked_for() -> None:
    tiles, out = room(SLAB_BYTES), np.empty((50, 70, 3), np.uint8)
    whole = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    part = (slice(20, 70), slice(100, 170))
    tiles.copy(1, part, out, shape=SHAPE, decode=lambda _, pixels: np.copyto(pixels, whole))
    np.testing.assert_array_equal(out, whole[part])


def test_memory_is_bounded_and_the_latest_are_kept() -> None:
    tiles, decoder = room(3 * SLAB_BYTES), Decoder()
    for number in range(10 * PER_SLAB):
        decoder.read(tiles, number)
        assert tiles.held_bytes <= 3 * SLAB_BYTES
    decoder.decoded.clear()
    for number in range(8 * PER_SLAB, 10 * PER_SLAB):
        decoder.read(tiles, number)
    assert decoder.decoded == []
    decoder.read(tiles, 0)
    assert decoder.decoded == [0]


def test_memory_is_used_again() -> None:
    tiles, decoder = room(3 * SLAB_BYTES), Decoder()
    for number in range(10 * PER_SLAB):
        decoder.read(tiles, number)
    assert len(decoder.memory) == 3 * PER_SLAB


def test_memory_is_not_used_again_while_a_tile_is_copied_from_it() -> None:
    tiles, decoder = room(SLAB_BYTES), Decoder()

    def decode_others() -> None:
        for number in range(100, 100 + 5 * PER_SLAB):
            decoder.read(tiles, number)

    seen = Meanwhile(decode_others)
    tiles.copy(7, WHOLE, cast(Pixels, seen), shape=SHAPE, decode=decoder.fill)
    assert (seen.pixels == 7).all()
    assert tiles.held_bytes == 2 * SLAB_BYTES
    decode_others()
    assert len(decoder.memory) <= 2 * PER_SLAB


def test_memory_is_not_used_again_while_a_tile_is_decoded_into_it() -> None:
    tiles, decoder = room(SLAB_BYTES), Decoder()

    def slow(number: int, out: Pixels) -> None:
        out[:] = number
        for other in range(100, 100 + 5 * PER_SLAB):
            decoder.read(tiles, other)

    assert (read(tiles, 7, slow) == 7).all()


def test_tiles_of_several_shapes_share_the_room() -> None:
    tiles, decoder = room(2 * SLAB_BYTES), Decoder()
    for number in range(6):
        decoder.read(tiles, number)
        huge = read(tiles, -1 - number, lambda _, out: out.fill(9), HUGE)
        assert (huge == 9).all()
        assert tiles.held_bytes <= max(2 * SLAB_BYTES, 2000 * 2000 * 3)
        assert (decoder.read(tiles, number) == number).all()


def test_a_tile_at_work_is_waited_for_and_not_decoded_twice() -> None:
    tiles, may_end = room(SLAB_BYTES), threading.Event()
    calls: list[int] = []

    def slow(key: int, out: Pixels) -> None:
        calls.append(threading.get_ident())
        may_end.wait(10)
        out[:] = 5

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(read, tiles, 1, slow) for _ in range(4)]
        may_end.set()
        assert all((future.result() == 5).all() for future in waiting)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [UnfitError, MemoryError, KeyboardInterrupt])
def test_nobody_waits_for_ever_and_a_tile_that_failed_is_tried_again(
    error: type[BaseException],
) -> None:
    tiles, may_end = room(SLAB_BYTES), threading.Event()

    def unfit(key: int, out: Pixels) -> None:
        may_end.wait(10)
        raise error("damaged")

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(read, tiles, 1, unfit) for _ in range(4)]
        may_end.set()
        for future in waiting:
            with pytest.raises(error, match="damaged"):
                future.result()
    assert (read(tiles, 1, lambda _, out: out.fill(1)) == 1).all()


def test_threads_that_come_and_go_see_their_own_tiles() -> None:
    tiles, decoder = room(SLAB_BYTES), Decoder()
    order = np.random.default_rng(5).permutation(np.repeat(np.arange(3 * PER_SLAB), 3))
    with ThreadPoolExecutor(8) as pool:
        whole = pool.map(lambda n: bool((decoder.read(tiles, n) == n % 251).all()), order.tolist())
    assert all(whole)
