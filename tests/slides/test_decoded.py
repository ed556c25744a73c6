"""Decoded tiles that threads share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.slides.decoded import SLAB_BYTES, DecodedTiles
from sagdeploy.slides.tileindex import UnfitError

SHAPE = (200, 300, 3)
PER_SLAB = SLAB_BYTES // (200 * 300 * 3)


def room(capacity: int) -> DecodedTiles[int]:
    return DecodedTiles(capacity)


class Decoder:
    """Fills tiles with their number, and counts."""

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def read(self, tiles: DecodedTiles[int], number: int) -> NDArray[np.uint8]:
        return tiles.get(number, SHAPE, self.fill)

    def fill(self, number: int, out: NDArray[np.uint8]) -> None:
        self.decoded.append(number)
        out[:] = number % 251


def test_a_tile_is_decoded_once_and_kept() -> None:
    tiles, decoder = room(4 * SLAB_BYTES), Decoder()
    for number in [3, 4, 3, 4, 4, 3]:
        assert (decoder.read(tiles, number) == number).all()
    assert decoder.decoded == [3, 4]


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


def test_a_tile_in_use_outlives_its_place() -> None:
    tiles, decoder = room(SLAB_BYTES), Decoder()
    first = decoder.read(tiles, 7)
    for number in range(100, 100 + 3 * PER_SLAB):
        decoder.read(tiles, number)
    assert (first == 7).all()


def test_tiles_of_several_shapes_share_the_room() -> None:
    tiles, decoder = room(2 * SLAB_BYTES), Decoder()
    huge = (2000, 2000, 3)
    for number in range(6):
        decoder.read(tiles, number)
        assert tiles.get(-1 - number, huge, lambda key, out: out.fill(9)).shape == huge
        assert tiles.held_bytes <= max(2 * SLAB_BYTES, 2000 * 2000 * 3)


def test_a_tile_at_work_is_waited_for_and_not_decoded_twice() -> None:
    tiles, may_end = room(SLAB_BYTES), threading.Event()
    calls: list[int] = []

    def slow(key: int, out: NDArray[np.uint8]) -> None:
        calls.append(threading.get_ident())
        may_end.wait(10)
        out[:] = 5

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(tiles.get, 1, SHAPE, slow) for _ in range(4)]
        may_end.set()
        assert all((future.result() == 5).all() for future in waiting)
    assert len(calls) == 1


def test_a_tile_that_is_unfit_is_so_for_all_who_wait_and_is_tried_again() -> None:
    tiles, may_end = room(SLAB_BYTES), threading.Event()

    def unfit(key: int, out: NDArray[np.uint8]) -> None:
        may_end.wait(10)
        raise UnfitError("damaged")

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(tiles.get, 1, SHAPE, unfit) for _ in range(4)]
        may_end.set()
        for future in waiting:
            with pytest.raises(UnfitError, match="damaged"):
                future.result()
    assert (tiles.get(1, SHAPE, lambda key, out: out.fill(1)) == 1).all()


def test_threads_that_come_and_go_see_their_own_tiles() -> None:
    tiles, decoder = room(SLAB_BYTES), Decoder()
    order = np.random.default_rng(5).permutation(np.repeat(np.arange(3 * PER_SLAB), 3))
    with ThreadPoolExecutor(8) as pool:
        whole = pool.map(lambda n: bool((decoder.read(tiles, n) == n % 251).all()), order.tolist())
    assert all(whole)
