"""Tiles come in their order, whatever the batches and threads, and memory holds few of them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sagdeploy.errors import EngineError, ModelError, SlideError
from sagdeploy.pipeline import stream
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.stream import (
    PIECE_TILES,
    STRIPE_L0,
    TileReader,
    all_tiles,
    batches,
    extractor_of,
    stream_features,
)
from sagdeploy.serving.engine import ON_CORES, Arrays, Pace
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.tiling import Tiles
from tests.untrained import CLASSES

BATCH_TILES = ON_CORES.batch_tiles
ONE = Pace(BATCH_TILES, in_flight=1)


def tiles(count: int, size_px: tuple[int, int] = (32, 48)) -> Tiles:
    corners = np.array([(7 * i % 1400, 11 * i % 1000) for i in range(count)], np.int64)
    return Tiles(corners, size_px, size_px, 0.5)


def mean_colour(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    colours: NDArray[np.float32] = batch.mean((1, 2), dtype=np.float32)
    return colours


def colours_of(path: Path, wanted: Tiles) -> NDArray[np.float32]:
    """What `mean_colour` says of each tile, one after the other."""
    with open_slide(path) as slide:
        pixels = [
            slide.read((x, y), wanted.size_l0, wanted.size_px) for x, y in wanted.xy_l0.tolist()
        ]
    return mean_colour(np.stack(pixels))


class Plain(TileReader):
    """A reader whose tiles say where they were read, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self.lent = 0
        """Bytes of buffers."""

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        time.sleep(self._seconds)
        pixels = np.empty((*size_px[::-1], 3), np.uint8)
        pixels[:] = (xy_l0[0] % 251, xy_l0[1] % 251, 7)
        return pixels

    @contextmanager
    def buffers(
        self, count: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        with super().buffers(count, shape) as lent:
            self.lent += sum(buffer.nbytes for buffer in lent)
            yield lent


@pytest.mark.parametrize(("workers", "in_flight"), [(None, 0), (1, 0), (5, 0), (None, 3), (2, 4)])
@pytest.mark.parametrize("opener", [open_slide, open_isolated])
def test_features_keep_the_order_of_the_tiles(
    painted: Path, opener: Callable[[Path], Slide], workers: int | None, in_flight: int
) -> None:
    wanted, pace = tiles(70), Pace(2 * PIECE_TILES + 3, in_flight)
    with opener(painted) as slide:
        features = stream_features(slide, wanted, mean_colour, workers=workers, pace=pace)
    np.testing.assert_array_equal(features, colours_of(painted, wanted))


@pytest.mark.parametrize("count", [1, 23])
def test_all_tiles_of_a_bag_come_at_once(painted: Path, count: int) -> None:
    wanted = tiles(count)
    for opener in (open_slide, open_isolated):
        with opener(painted) as slide, all_tiles(slide, wanted) as bag:
            assert bag.shape == (count, 48, 32, 3)
            np.testing.assert_array_equal(mean_colour(bag), colours_of(painted, wanted))


def test_memory_holds_one_batch_a_worker() -> None:
    reader, wanted = Plain(), tiles(500)
    stream_features(reader, wanted, mean_colour, workers=3)
    assert reader.lent == 3 * BATCH_TILES * 3 * 32 * 48


def test_a_slow_extractor_slows_the_reader_down() -> None:
    lock, read, inferred, ahead = threading.Lock(), 0, 0, []

    class Counting(Plain):
        def read(self, *region: tuple[int, int]) -> NDArray[np.uint8]:
            nonlocal read
            with lock:
                read += 1
                ahead.append(read - inferred)
            return super().read(*region)

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal inferred
        time.sleep(0.002)
        with lock:
            inferred += len(batch)
        return mean_colour(batch)

    stream_features(Counting(), tiles(30 * BATCH_TILES), infer, workers=4, pace=ONE)
    assert max(ahead) <= 4 * BATCH_TILES


@pytest.mark.parametrize(("in_flight", "most"), [(1, 1), (2, 2), (0, 6)])
def test_no_more_requests_are_under_way_than_asked_for(in_flight: int, most: int) -> None:
    lock, inside, seen, senders = threading.Lock(), 0, 0, set()

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal inside, seen
        with lock:
            inside += 1
            seen = max(seen, inside)
            senders.add(threading.get_ident())
        time.sleep(0.002)
        with lock:
            inside -= 1
        return mean_colour(batch)

    stream_features(Plain(), tiles(400), infer, workers=6, pace=Pace(BATCH_TILES, in_flight))
    assert 1 <= seen <= len(senders) <= most  # who has an answer sends the next request


def test_the_reader_goes_on_while_a_request_is_under_way() -> None:
    read, asked = threading.Semaphore(0), []

    class Telling(Plain):
        def read(self, *region: tuple[int, int]) -> NDArray[np.uint8]:
            read.release()
            return super().read(*region)

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(len(batch))
        if len(asked) == 1:
            for _ in range(2 * BATCH_TILES):  # this batch, and the other one
                assert read.acquire(timeout=10)
        return mean_colour(batch)

    stream_features(Telling(), tiles(2 * BATCH_TILES), infer, pace=ONE)
    assert asked == [BATCH_TILES, BATCH_TILES]


@pytest.mark.parametrize(
    ("read_s", "infer_s", "bound"), [(0.0, 0.02, "extractor-bound"), (0.002, 0.0, "reader-bound")]
)
@pytest.mark.parametrize("in_flight", [0, 1])
def test_the_slower_one_is_named(read_s: float, infer_s: float, bound: str, in_flight: int) -> None:
    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(infer_s)
        return mean_colour(batch)

    flow = Flow()
    stream_features(Plain(read_s), tiles(160), infer, pace=Pace(BATCH_TILES, in_flight), flow=flow)
    assert (flow.tiles, str(flow.bound).split()[0]) == (160, bound)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_failure_stops_the_stream(in_flight: int) -> None:
    asked = 0

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal asked
        asked += 1
        raise EngineError("no answer")

    pace = Pace(BATCH_TILES, in_flight)
    with pytest.raises(EngineError, match="no answer"):
        stream_features(Plain(), tiles(500), infer, workers=1, pace=pace)
    assert asked < 500 // BATCH_TILES


def test_an_unreadable_tile_stops_the_stream() -> None:
    class Damaged(Plain):
        def read(self, *region: tuple[int, int]) -> NDArray[np.uint8]:
            raise SlideError("damaged")

    with pytest.raises(SlideError, match="damaged"):
        stream_features(Damaged(), tiles(500), mean_colour, workers=3, pace=ONE)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_who_interrupts_does_not_wait_for_a_server_that_is_away(in_flight: int) -> None:
    away, once = threading.Event(), threading.Lock()

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        assert away.wait(10)
        return mean_colour(batch)

    pace = Pace(BATCH_TILES, in_flight)
    with pytest.raises(KeyboardInterrupt):
        stream_features(Plain(), tiles(100), infer, workers=2, pace=pace)
    away.set()


def test_batches_cover_all_tiles_once() -> None:
    for count in (1, 15, 16, 17, 100):
        spans = batches(tiles(count), 16)
        assert [i for span in spans for i in span.tolist()] == list(range(count))


@given(count=st.integers(1, 300), most=st.integers(1, 40), least=st.integers(1, 20))
def test_a_small_slide_has_a_batch_for_every_core(count: int, most: int, least: int) -> None:
    sizes = [len(span) for span in batches(tiles(count), most, least=least)]
    assert sum(sizes) == count
    assert max(sizes) <= most
    assert len(sizes) >= min(count, least)


def test_all_cores_read_the_same_batch() -> None:
    lock, read, spread = threading.Lock(), [], []

    class Telling(Plain):
        def read_tiles(self, xy_l0: NDArray[np.int64], **how: Any) -> None:
            with lock:
                read.append(len(xy_l0))
            super().read_tiles(xy_l0, **how)

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        with lock:
            spread.append(sum(read))
        return mean_colour(batch)

    size = 10 * PIECE_TILES
    stream_features(Telling(0.002), tiles(3 * size), infer, pace=Pace(size, in_flight=1))
    assert set(read) == {PIECE_TILES}
    assert size <= spread[0] < 2 * size  # the next one is not ready yet


def test_a_wide_slide_is_read_in_stripes() -> None:
    columns = np.arange(0, 3 * STRIPE_L0, 4096)
    xy_l0 = np.stack(np.meshgrid(columns, np.arange(0, 9 * 4096, 4096)), axis=-1).reshape(-1, 2)
    wide = Tiles(xy_l0, (4096, 4096), (8, 8), 0.5)
    visited = xy_l0[np.concatenate(batches(wide, 16))]
    assert len(np.unique(visited, axis=0)) == len(xy_l0)
    stripes = visited[:, 0] // STRIPE_L0
    assert (np.diff(stripes) >= 0).all()
    for stripe in range(3):
        assert (np.diff(visited[stripes == stripe][:, 1]) >= 0).all()
    features = stream_features(Plain(), wide, mean_colour)
    np.testing.assert_array_equal(features[:, :2], xy_l0 % 251)


def test_large_crops_come_in_small_batches() -> None:
    (first, *_) = batches(tiles(9, size_px=(4000, 2500)), 16)
    assert first.tolist() == [0]
    assert stream.BATCH_BYTES >= 4000 * 2500 * 3


class Answering:
    """An engine that answers every request with the same features."""

    description = "a fixed answer"

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features = features

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        return {"features": self._features}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (np.zeros((2, 7), np.float32), ModelError),
        (np.full((2, 3), np.nan, np.float32), EngineError),
    ],
)
def test_features_that_do_not_fit_are_refused(
    answer: NDArray[np.float32], error: type[Exception]
) -> None:
    infer = extractor_of(Answering(answer), "sag_extractor", 3)  # type: ignore[arg-type]
    with pytest.raises(error, match="features"):
        infer(np.zeros((2, 8, 8, 3), np.uint8))


def test_the_local_engine_gives_the_same_features_over_batches_and_threads(
    painted: Path, repository: Path
) -> None:
    engine = LocalEngine(repository)
    manifest = engine.manifest("sag")
    assert manifest.classes == CLASSES
    infer = extractor_of(engine, "sag_extractor", manifest.extractor.features)
    wanted = tiles(40, size_px=(112, 112))
    with open_slide(painted) as near, open_isolated(painted) as far:
        one = stream_features(near, wanted, infer, workers=1)
        three = stream_features(far, wanted, infer, workers=3)
        with all_tiles(near, wanted) as bag:
            alone = np.concatenate([infer(bag[i : i + 1]) for i in range(40)])
    np.testing.assert_array_equal(one, three)
    np.testing.assert_allclose(one, alone, atol=1e-5)
