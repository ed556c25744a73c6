"""TritonEngine on a real server, and held against the other engine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.engine import Arrays, check_diagnosis
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine
from tests.serving.engine_contract import FEATURES, EngineContract, some_tiles

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def engine(server: TritonServer) -> Iterator[TritonEngine]:
    """An engine that asks the server."""
    engine = TritonEngine(server.url)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def local(repository: Path) -> Iterator[LocalEngine]:
    """The other engine, on the folder that the server serves."""
    engine = LocalEngine(repository)
    yield engine
    engine.close()


class TestTritonEngine(EngineContract):
    """The contract."""


def assert_same(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=TOLERANCE)


def test_it_names_the_server(engine: TritonEngine, server: TritonServer) -> None:
    assert engine.description == f"Triton 2.51.0 at {server.url}"


@pytest.mark.parametrize("version", [None, 1, 2])
def test_both_engines_read_the_same_manifest(
    engine: TritonEngine, local: LocalEngine, version: int | None
) -> None:
    assert engine.manifest("small", version) == local.manifest("small", version)


@pytest.mark.parametrize("count", [1, 256])
def test_both_engines_say_the_same(engine: TritonEngine, local: LocalEngine, count: int) -> None:
    tiles = some_tiles(count, seed=count)
    whole = engine.infer("small", {"tiles": tiles})
    check_diagnosis(whole, engine.manifest("small"), [count])
    assert_same(whole, local.infer("small", {"tiles": tiles}))


@pytest.mark.parametrize(
    ("model", "version"), [("nobody", None), ("small_extractor", 7), ("small", 1)]
)
def test_what_is_not_served_is_the_models_fault(
    engine: TritonEngine, model: str, version: int | None
) -> None:
    with pytest.raises(ModelError, match="unknown model"):
        engine.infer(model, {"tiles": some_tiles(1)}, version=version)


def test_a_missing_manifest_is_told_with_those_that_are_there(engine: TritonEngine) -> None:
    with pytest.raises(ModelError, match="no manifest of version 7; versions with one: 1, 2"):
        engine.manifest("small", 7)


def test_features_of_another_model_are_refused(engine: TritonEngine) -> None:
    features = np.ones((3, FEATURES + 1), np.float32)
    with pytest.raises(ModelError, match=rf"\[3, {FEATURES + 1}\]"):
        engine.infer("small_diagnosis", {"features": features})


def test_numbers_that_are_not_finite_are_refused(engine: TritonEngine) -> None:
    features = np.full((3, FEATURES), np.nan, np.float32)
    with pytest.raises(EngineError, match="not finite"):
        engine.infer("small_diagnosis", {"features": features})
