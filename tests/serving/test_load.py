"""Many clients get right answers, and a slow server slows its clients down."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.stream import TileReader, extractor_of, stream_features
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.transport import Connections, parse_address
from sagdeploy.serving.triton import PACE, TritonEngine
from sagdeploy.slides.tiling import Tiles
from tests.serving.faultserver import MODEL, FaultServer, slow
from tests.serving.noise import Noise, tiles_of

CLIENTS = 4
SIZES = (300, 431, 90, 600)
"""Tiles of each client's slide: some are streamed, some are not."""


def diagnose(url: str, count: int) -> Diagnosis:
    """A client's whole way with one slide, in engine and threads of its own."""
    engine = TritonEngine(url)
    try:
        manifest = engine.manifest("small")
        return diagnose_tiles(Noise(), (tiles_of(count),), engine, manifest, workers=3)
    finally:
        engine.close()


def runs_and_requests(server: TritonServer) -> tuple[int, int]:
    """How often the extractor has run, and for how many requests."""
    connections = Connections(parse_address(server.url))
    path = "/v2/models/small_extractor/versions/2/stats"
    answer = connections.exchange("GET", path, timeout_s=5)
    connections.close()
    (stats,) = json.loads(answer.body)["model_stats"]
    return stats["execution_count"], stats["inference_stats"]["success"]["count"]


def test_clients_at_once_are_answered_as_each_alone(server: TritonServer) -> None:
    alone = [diagnose(server.url, count) for count in SIZES]
    with ThreadPoolExecutor(CLIENTS) as clients:
        together = list(clients.map(diagnose, [server.url] * CLIENTS, SIZES))
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.logits, theirs.logits)
        np.testing.assert_array_equal(ours.attention[0], theirs.attention[0])


def test_tiles_of_several_slides_share_a_run(server: TritonServer) -> None:
    runs, requests = runs_and_requests(server)
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(diagnose, [server.url] * CLIENTS, [400] * CLIENTS))
    more_runs, more_requests = runs_and_requests(server)
    assert more_requests - requests == CLIENTS * 400 / PACE.batch_tiles
    assert more_runs - runs < more_requests - requests


@pytest.fixture
def slow_server() -> Iterator[FaultServer]:
    """A server that takes its time for every answer."""
    with FaultServer() as running:
        running.faults.extend([slow] * 1000)
        yield running


class Counting(TileReader):
    """A reader that counts the tiles it has read."""

    def __init__(self) -> None:
        self.tiles = 0
        self._lock = threading.Lock()

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Black."""
        with self._lock:
            self.tiles += 1
        return np.zeros((*size_px, 3), np.uint8)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_slow_server_slows_the_reader_down(slow_server: FaultServer, workers: int) -> None:
    engine, reader = TritonEngine(slow_server.url), Counting()
    tiles: Tiles = tiles_of(50 * PACE.batch_tiles, tile_px=4)
    answered, ahead = 0, []
    lock = threading.Lock()

    def progress(count: int) -> None:
        nonlocal answered
        with lock:
            answered += count
            ahead.append(reader.tiles - answered)

    infer = extractor_of(engine, MODEL, 2, version=1)
    features = stream_features(reader, tiles, infer, workers=workers, progress=progress)
    engine.close()
    assert features.shape == (len(tiles), 2)
    assert max(ahead) <= workers * PACE.batch_tiles
