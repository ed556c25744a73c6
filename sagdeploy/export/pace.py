"""How many tiles and threads a run of the extractor should have, measured where it is exported.

On cores more tiles a run fall out of the caches, and take as much more memory; where a run's cost
lies elsewhere, they gain. All cores on one run lose to a run on each, but for the largest networks.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.manifest import CorePace
from sagdeploy.pipeline.stream import cores
from sagdeploy.serving.runtime import Graph, load_graph

BATCHES = (8, 16)
"""From 4 tiles to 8 MobileNetV2 loses 3 %, which asking the decoder half as often makes up for."""

ROUNDS = 3
TILES = 16
"""A core, way and round."""

WORTH = 0.1
"""What larger batches, which take more memory, or all cores must gain: more than noise."""

SLOW_S = 1.0
"""A tile. An extractor that takes longer is as fast in any batch, and not waited for."""


def core_pace(extractor_onnx: Path, tile_px: int) -> CorePace:
    """The fewest tiles a run that are about as fast as any, on one thread unless all gain."""
    tiles = np.random.default_rng(0).integers(0, 256, (BATCHES[-1], tile_px, tile_px, 3), np.uint8)
    graphs = {threads: load_graph(extractor_onnx, threads=threads) for threads in (1, 0)}
    ways = [CorePace(batch_tiles=batch, threads=1) for batch in BATCHES]
    if _seconds(graphs[1], tiles[:1]) > SLOW_S:
        return ways[0]
    ways.append(CorePace(batch_tiles=BATCHES[-1], threads=0))
    rounds = [[_per_tile(graphs[way.threads], tiles, way) for way in ways] for _ in range(ROUNDS)]
    best = np.min(rounds, axis=0)  # what else runs on the machine only ever adds
    return next(way for way, s in zip(ways, best, strict=True) if s <= (1 + WORTH) * best.min())


def _per_tile(graph: Graph, tiles: NDArray[np.uint8], way: CorePace) -> float:
    """Seconds a tile with all cores at work, each on as many tiles."""
    at_once = cores() if way.threads else 1
    runs = TILES // way.batch_tiles * cores()
    batch = tiles[: way.batch_tiles]
    begun = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: graph.run({"tiles": batch}), range(runs)))
    return (time.perf_counter() - begun) / (runs * len(batch))


def _seconds(graph: Graph, batch: NDArray[np.uint8]) -> float:
    begun = time.perf_counter()
    graph.run({"tiles": batch})
    return time.perf_counter() - begun
