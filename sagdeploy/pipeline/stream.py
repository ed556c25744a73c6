"""The tile stream: tiles of a slide through an extractor, in bounded memory.

Features for training and for a diagnosis are made here and nowhere else, so the two cannot
drift apart. Reading and inference overlap: each worker reads a batch and has it inferred,
so memory holds one batch a worker, whatever the slide.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.engine import Engine
from sagdeploy.slides.tiling import Tiles

BATCH_TILES = 16
"""Tiles a batch: past 8 a CPU gains nothing, and HTTP is at its best from 16."""

BATCH_BYTES = 32 << 20
"""Largest batch, for crops of thousands of pixels; half of Triton's default limit."""

Progress = Callable[[int], None]
"""Told how many more tiles are done."""


class TileReader(Protocol):
    """Where pixels come from: a `slides.slide.Slide`, or what stands in for one."""

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A region as RGB (h, w, 3), resampled to `size_px`. Called from several threads."""
        ...


def read_batch(slide: TileReader, tiles: Tiles, start: int, stop: int) -> NDArray[np.uint8]:
    """Tiles `start` to `stop` as uint8 RGB (N, H, W, 3)."""
    width, height = tiles.size_px
    batch = np.empty((stop - start, height, width, 3), np.uint8)
    for row, (x, y) in zip(batch, tiles.xy_l0[start:stop].tolist(), strict=True):
        row[:] = slide.read((x, y), tiles.size_l0, tiles.size_px)
    return batch


def stream_features(
    slide: TileReader,
    tiles: Tiles,
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    workers: int | None = None,
    progress: Progress = lambda count: None,
) -> NDArray[np.float32]:
    """Features of all tiles in their order, float32 (N, E).

    infer:   uint8 (n, H, W, 3) -> float32 (n, E); called from several threads
    workers: batches read and inferred at once; all cores by default
    """

    def work(span: tuple[int, int]) -> NDArray[np.float32]:
        features = infer(read_batch(slide, tiles, *span))
        progress(span[1] - span[0])
        return features

    spans = list(batches(tiles))
    with ThreadPoolExecutor(workers or cores()) as pool:
        parts = pool.map(work, spans)
        first = next(parts)
        features = np.empty((len(tiles), first.shape[1]), np.float32)  # never all of it twice
        for (start, stop), part in zip(spans, chain([first], parts), strict=True):
            features[start:stop] = part
    return features


def extractor_of(
    engine: Engine, model: str, features: int, version: int | None = None
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
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


def batches(tiles: Tiles) -> Iterator[tuple[int, int]]:
    """(start, stop) of the batches that cover all tiles, in order."""
    tile_bytes = 3 * tiles.size_px[0] * tiles.size_px[1]
    size = max(1, min(BATCH_TILES, BATCH_BYTES // tile_bytes))
    yield from pairwise([*range(0, len(tiles), size), len(tiles)])


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
