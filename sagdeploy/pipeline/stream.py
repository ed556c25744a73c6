"""The tile stream: tiles of a slide through an extractor, in bounded memory.

Features for training and for a diagnosis are made here and nowhere else, so the two cannot
drift apart. Reading and inference overlap: each worker reads a batch into its own buffer and
has it inferred from there, so memory holds one batch a worker, whatever the slide, and whoever
is slow slows the others down.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from queue import SimpleQueue
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.shelf import FeatureShelf
from sagdeploy.serving.engine import ON_CORES, Engine, Pace
from sagdeploy.slides.tiling import Tiles

BATCH_BYTES = 32 << 20
"""Largest batch, for crops of thousands of pixels; half of Triton's default limit."""

LEAST_BATCHES = 16
"""Of a small slide on cores, so that none of these is idle for long while the last is at work. The
same on any number of cores: some extractors round features of larger batches otherwise."""

PIECE_TILES = 8
"""Read by one core where several read a batch: few, so that all are at work in one place."""

STRIPE_L0 = 1 << 13
"""Width of what is read row by row. Two rows of tiles need the same JPEG tiles; those of a
stripe, decoded, are some of the 32 MiB that readers keep, so that each is decoded once."""

Progress = Callable[[int], None]
"""Told how many more tiles are done."""

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (n, H, W, 3) -> float32 (n, E); called from several threads."""


def untold(count: int) -> None:
    """A Progress that tells nobody."""


class TileReader(Protocol):
    """Where pixels come from: a `slides.slide.Slide`, or what stands in for one.

    Asked by several threads at once. What can only `read` has the rest by inheriting.
    """

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A region as RGB (h, w, 3), resampled to `size_px`."""
        ...

    def read_tiles(
        self,
        xy_l0: NDArray[np.int64],
        *,
        size_l0: tuple[int, int],
        size_px: tuple[int, int],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill `out`, uint8 RGB (n, h, w, 3), with what `read` gives of each corner."""
        for pixels, (x, y) in zip(out, xy_l0.tolist(), strict=True):
            pixels[:] = self.read((x, y), size_l0, size_px)

    @contextmanager
    def buffers(
        self, count: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Arrays that `read_tiles` fills without a copy, for as long as the block lasts."""
        yield tuple(np.empty(shape, np.uint8) for _ in range(count))


def stream_features(
    slide: TileReader,
    tiles: Tiles,
    infer: Infer,
    *,
    workers: int | None = None,
    pace: Pace = ON_CORES,
    progress: Progress = untold,
    flow: Flow | None = None,
) -> NDArray[np.float32]:
    """Features of all tiles in their order, float32 (N, E).

    workers: batches in memory at once; by default one a core, or two a request in flight, of
        which one is ready to follow it, and two that are read
    pace:    the engine's
    flow:    is told where the time went
    """
    flow = Flow() if flow is None else flow
    workers = workers or (2 + 2 * pace.in_flight if pace.in_flight else cores())
    spans = batches(tiles, pace.batch_tiles, least=1 if pace.in_flight else LEAST_BATCHES)
    workers = min(workers, len(spans))
    idle: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()

    def work(span: NDArray[np.int64]) -> NDArray[np.float32]:
        buffer = idle.get()  # there are as many as workers
        try:
            batch = buffer[: len(span)]
            with flow.reading():
                read(span, batch)
            with flow.inferring():
                features = ask(batch)
        finally:
            idle.put(buffer)
        progress(len(span))
        return features

    shape = (len(spans[0]), *tiles.size_px[::-1], 3)
    with (
        flow.of(len(tiles)),
        slide.buffers(workers, shape) as buffers,
        _reading(slide, tiles, pace.in_flight) as read,
        _asking(infer, pace.in_flight) as ask,
        _pool(workers) as pool,
    ):
        for buffer in buffers:
            idle.put(buffer)
        return _put_together(pool.map(work, spans), spans, len(tiles))


def _put_together(
    parts: Iterator[NDArray[np.float32]], spans: Sequence[NDArray[np.int64]], tiles: int
) -> NDArray[np.float32]:
    """Features (N, E) from those of each span, as they come."""
    first = next(parts)
    with FeatureShelf(tiles, first.shape[1]) as shelf:
        for span, part in zip(spans, chain([first], parts), strict=True):
            shelf.put(span, part)
        return shelf.all()


@contextmanager
def all_tiles(
    slide: TileReader, tiles: Tiles, *, workers: int | None = None, flow: Flow | None = None
) -> Iterator[NDArray[np.uint8]]:
    """All tiles at once, uint8 RGB (N, H, W, 3), for as long as the block lasts."""
    flow = Flow() if flow is None else flow
    with slide.buffers(1, (len(tiles), *tiles.size_px[::-1], 3)) as (batch,):

        def work(span: NDArray[np.int64]) -> None:
            with flow.reading():
                _read(slide, tiles, span, batch[span[0] : span[-1] + 1])

        parts = min(workers or cores(), len(tiles))
        with flow.of(len(tiles)), _pool(parts) as pool:
            list(pool.map(work, np.array_split(np.arange(len(tiles)), parts)))
        yield batch


def extractor_of(engine: Engine, model: str, features: int, version: int | None = None) -> Infer:
    """`infer` of stream_features for an engine's extractor, its answers checked."""

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        output = engine.infer(model, {"tiles": batch}, version=version)["features"]
        if output.shape != (len(batch), features):
            raise ModelError(
                f"{model}: features are {list(output.shape)}, not [{len(batch)}, {features}]",
                hint="the repository's manifest and its extractor do not fit: export again",
            )
        if not np.isfinite(output).all():
            raise EngineError(f"{model}: features that are not finite")
        return output.astype(np.float32, copy=False)

    return infer


def batches(tiles: Tiles, most: int, *, least: int = 1) -> list[NDArray[np.int64]]:
    """Which tiles make up each batch, at most `most` of them: stripe by stripe, row by row.

    least: batches, if there are as many tiles
    """
    tile_bytes = 3 * tiles.size_px[0] * tiles.size_px[1]
    size = max(1, min(most, BATCH_BYTES // tile_bytes, len(tiles) // least))
    order = np.argsort(tiles.xy_l0[:, 0] // STRIPE_L0, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _reading(
    slide: TileReader, tiles: Tiles, in_flight: int
) -> Iterator[Callable[[NDArray[np.int64], NDArray[np.uint8]], None]]:
    """What reads a batch: the thread that asks for it, or all cores where that one has an engine.

    All at work on one batch stay close to each other on the slide, and it is ready soon.
    """
    if not in_flight:
        yield partial(_read, slide, tiles)
        return
    turn = Lock()
    with _pool(cores()) as pool:

        def read(span: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
            starts = range(0, len(span), PIECE_TILES)
            pieces = [slice(start, start + PIECE_TILES) for start in starts]
            with turn:  # no piece of another batch between them
                done = pool.map(lambda some: _read(slide, tiles, span[some], out[some]), pieces)
            list(done)

        yield read


def _read(slide: TileReader, tiles: Tiles, span: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    xy_l0 = tiles.xy_l0[span]
    slide.read_tiles(xy_l0, size_l0=tiles.size_l0, size_px=tiles.size_px, out=out)


@contextmanager
def _asking(infer: Infer, in_flight: int) -> Iterator[Infer]:
    """`infer`, with so many requests under way at most; 0 for any number.

    Whichever thread has an answer sends the next batch at once. Were it to wake the one that has
    read that batch, the engine would idle until a core that reads is free for it.
    """
    if not in_flight:
        yield infer
        return
    with _pool(in_flight) as pool:
        yield lambda batch: pool.submit(infer, batch).result()


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that do what the block gives them, or drop it where the block fails.

    Who interrupts does not wait for those that are still at work, maybe with a server that is
    away: as slide and engine are closed, they end.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
