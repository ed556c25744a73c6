"""Tiles come in their order, whatever the batches and threads, and memory holds few of them."""

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.pipeline import stream
from sagdeploy.pipeline.stream import batches, extractor_of, read_batch, stream_features
from sagdeploy.serving.engine import Arrays
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tiling import Tiles
from tests.untrained import CLASSES


def tiles(count: int, size_px: tuple[int, int] = (32, 48)) -> Tiles:
    corners = np.array([(7 * i % 1400, 11 * i % 1000) for i in range(count)], np.int64)
    return Tiles(corners, size_px, size_px, 0.5)


def mean_colour(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    colours: NDArray[np.float32] = batch.mean((1, 2), dtype=np.float32)
    return colours


def test_a_batch_holds_what_the_reader_reads(painted: Path) -> None:
    wanted = tiles(5)
    with open_slide(painted) as slide:
        batch = read_batch(slide, wanted, 1, 4)
        x, y = wanted.xy_l0[2]
        expected = slide.read((int(x), int(y)), (32, 48), (32, 48))
    assert batch.shape == (3, 48, 32, 3)
    np.testing.assert_array_equal(batch[1], expected)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_features_keep_the_order_of_the_tiles(painted: Path, workers: int) -> None:
    wanted = tiles(70)
    with open_slide(painted) as slide:
        features = stream_features(slide, wanted, mean_colour, workers=workers)
        expected = mean_colour(read_batch(slide, wanted, 0, 70))
    np.testing.assert_array_equal(features, expected)


def test_no_more_batches_are_in_memory_than_workers(painted: Path) -> None:
    lock, inside, most = threading.Lock(), 0, 0

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        features = mean_colour(batch)
        with lock:
            inside -= 1
        return features

    with open_slide(painted) as slide:
        stream_features(slide, tiles(200), infer, workers=2)
    assert 1 <= most <= 2


def test_a_failure_stops_the_stream(painted: Path) -> None:
    asked = 0

    def infer(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal asked
        asked += 1
        raise EngineError("no answer")

    with open_slide(painted) as slide, pytest.raises(EngineError, match="no answer"):
        stream_features(slide, tiles(500), infer, workers=1)
    assert asked < len(list(batches(tiles(500))))


def test_batches_cover_all_tiles_once() -> None:
    for count in (1, 15, 16, 17, 100):
        spans = list(batches(tiles(count)))
        assert [i for start, stop in spans for i in range(start, stop)] == list(range(count))


def test_large_crops_come_in_small_batches() -> None:
    (first, *_) = batches(tiles(9, size_px=(4000, 2500)))
    assert first == (0, 1)
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
    with open_slide(painted) as slide:
        one = stream_features(slide, wanted, infer, workers=1)
        three = stream_features(slide, wanted, infer, workers=3)
        alone = np.concatenate([infer(read_batch(slide, wanted, i, i + 1)) for i in range(40)])
    np.testing.assert_array_equal(one, three)
    np.testing.assert_allclose(one, alone, atol=1e-5)
