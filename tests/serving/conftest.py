"""The repository that engines are tested on, and a real tritonserver that serves it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.serving.environment import server_environment
from sagdeploy.serving.server import TritonServer
from tests.serving.engine_contract import publish_models


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of engine_contract; not to be written to."""
    folder = tmp_path_factory.mktemp("served") / "model_repository"
    publish_models(folder, tmp_path_factory.mktemp("exported"))
    return folder


@pytest.fixture(scope="session")
def server_cache() -> Path | None:
    """Folder with the server's environment; SAGDEPLOY_CACHE, or None for the user's cache."""
    cache = Path(os.environ["SAGDEPLOY_CACHE"]) if "SAGDEPLOY_CACHE" in os.environ else None
    try:
        server_environment(cache).library_path()
    except (ConfigError, EngineError) as error:
        pytest.skip(f"no tritonserver: {error}")
    return cache


@pytest.fixture(scope="session")
def server(repository: Path, server_cache: Path | None) -> Iterator[TritonServer]:
    """A tritonserver that serves `repository`."""
    with TritonServer(repository, cache=server_cache) as running:
        yield running
