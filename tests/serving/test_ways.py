"""Whole in one request or streamed, in process or through a server: one diagnosis."""

import re
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.serving.engine import Arrays, Diagnosis, Engine
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine
from tests.serving.engine_contract import diagnosis_of, features_of
from tests.serving.noise import Noise, pixels_of, tiles_of

SIZES = [1, 255, 256, 257, 5000]
TOLERANCE = 1e-5


class Recording(TritonEngine):
    """Notes what each model was asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[tuple[str, int]] = []
        """Model and rows of each request."""

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        self.asked.append((model, max(map(len, inputs.values()))))
        return super().infer(model, inputs, version=version)


class Streaming(TritonEngine):
    """Streams bags of any size."""

    def ensemble_tiles(self, model: str) -> int:
        return 0


@pytest.fixture
def engine(server: TritonServer) -> Iterator[Recording]:
    """An engine that asks the server, and says what."""
    engine = Recording(server.url)
    yield engine
    engine.close()


def diagnose(engine: Engine, count: int, version: int = 2) -> Diagnosis:
    """The diagnosis of `count` tiles, as `predict` makes it."""
    manifest = engine.manifest("small", version)
    return diagnose_tiles(Noise(), (tiles_of(count),), engine, manifest)


def assert_same(ours: Diagnosis, theirs: Diagnosis) -> None:
    for name in ("probabilities", "logits"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=TOLERANCE)
    np.testing.assert_allclose(ours.attention[0], theirs.attention[0], atol=TOLERANCE)
    top = np.argsort(theirs.attention[0], kind="stable")[-10:]
    np.testing.assert_array_equal(np.argsort(ours.attention[0], kind="stable")[-10:], top)


@pytest.mark.parametrize("count", SIZES)
def test_a_bag_of_any_size_has_the_same_diagnosis_either_way(
    engine: Recording, repository: Path, server: TritonServer, count: int
) -> None:
    ours = diagnose(engine, count)
    expected = diagnosis_of([features_of(pixels_of(tiles_of(count)))], sign=-1)
    np.testing.assert_allclose(ours.probabilities, expected["probabilities"], atol=TOLERANCE)
    assert_same(ours, diagnose(LocalEngine(repository), count))
    streaming = Streaming(server.url)
    assert_same(ours, diagnose(streaming, count))
    streaming.close()


@pytest.mark.parametrize("count", SIZES)
def test_no_request_holds_more_than_256_tiles(engine: Recording, count: int) -> None:
    diagnose(engine, count)
    tiles = [rows for model, rows in engine.asked if model != "small_diagnosis"]
    assert sum(tiles) == count
    assert max(tiles) <= 256
    models = {model for model, _ in engine.asked}
    assert models == ({"small"} if count <= 256 else {"small_extractor", "small_diagnosis"})


def test_the_diagnosis_network_is_asked_once(engine: Recording) -> None:
    diagnose(engine, 257)
    assert engine.asked.count(("small_diagnosis", 257)) == 1


def test_an_older_version_is_streamed_however_small_the_bag(engine: Recording) -> None:
    older, newer = diagnose(engine, 5, version=1), diagnose(engine, 5)
    assert [model for model, _ in engine.asked] == ["small_extractor", "small_diagnosis", "small"]
    np.testing.assert_allclose(older.logits, -newer.logits, atol=TOLERANCE)


def test_a_bag_larger_than_the_server_takes_at_once_is_streamed(
    repository: Path, server_cache: Path | None, tmp_path: Path
) -> None:
    tuned = shutil.copytree(repository, tmp_path / "tuned")
    config = tuned / "small_extractor" / "config.pbtxt"
    config.write_text(re.sub(r"max_batch_size: \d+", "max_batch_size: 40", config.read_text()))
    with TritonServer(tuned, cache=server_cache) as server:
        engine = Recording(server.url)
        assert_same(diagnose(engine, 41), diagnose(LocalEngine(tuned), 41))
        assert ("small", 41) not in engine.asked
        diagnose(engine, 40)
        assert engine.asked[-1] == ("small", 40)
        engine.close()


def test_memory_on_the_client_does_not_grow_with_the_pixels(engine: Recording) -> None:
    def peak(count: int) -> int:
        tiles, manifest = tiles_of(count), engine.manifest("small")
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        diagnose_tiles(Noise(), (tiles,), engine, manifest, workers=2)
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        few, many = peak(500), peak(4000)
    finally:
        tracemalloc.stop()
    pixels = 3500 * 24 * 24 * 3
    assert many - few < pixels / 4
