"""A model that is exported again while a real server and its clients are at work."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import ModelError
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.versions import ModelChoice, by_one_version
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine
from tests.serving.engine_contract import (
    Exported,
    diagnosis_of,
    export,
    features_of,
    some_tiles,
)
from tests.serving.noise import Noise, pixels_of, tiles_of
from tests.serving.restarting import Restarting

TILES = tiles_of(600)
HALFWAY = 300
EXPECTED = {
    version: diagnosis_of([features_of(pixels_of(TILES))], sign=sign)["logits"]
    for version, sign in ((1, 1.0), (2, -1.0))
}


Versions = tuple[Exported, Exported]
Change = Callable[[Path, Exported], object]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """A model, and one that says the opposite."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    return export(first, "small"), export(second, "small", sign=-1.0)


@pytest.fixture
def first(versions: Versions, tmp_path: Path) -> Path:
    """A repository with version 1."""
    versions[0].publish(tmp_path / "models")
    return tmp_path / "models"


class Slide:
    """One slide's way to a diagnosis, through a server that changes halfway."""

    def __init__(self, server: Restarting, choice: ModelChoice) -> None:
        self._server, self._choice = server, choice
        self._engine = TritonEngine(server.url)
        self._tiles = 0
        self.begun: list[int] = []
        """Version of each attempt."""

    def diagnose(self) -> Diagnosis:
        """The diagnosis, and the server killed once half of the tiles are done."""
        try:
            return by_one_version(self._engine, self._choice, self._attempt)
        finally:
            self._engine.close()

    def _attempt(self, manifest: Manifest) -> Diagnosis:
        self.begun.append(manifest.version)
        return diagnose_tiles(
            Noise(), (TILES,), self._engine, manifest, workers=2, progress=self._count
        )

    def _count(self, tiles: int) -> None:
        before, self._tiles = self._tiles, self._tiles + tiles
        if before < HALFWAY <= self._tiles:
            self._server.kill()


def add_second(repository: Path, second: Exported) -> None:
    """Publish version 2."""
    assert second.publish(repository) == 2


def replace_first(repository: Path, second: Exported) -> None:
    """Publish version 2, and take version 1 away."""
    add_second(repository, second)
    for part in ("small_extractor", "small_diagnosis"):
        shutil.rmtree(repository / part / "1")


def test_a_server_holds_every_version_and_the_ensemble_answers_for_the_latest(
    first: Path, versions: Versions, server_cache: Path | None
) -> None:
    add_second(first, versions[1])
    tiles = some_tiles(7)
    expected = diagnosis_of([features_of(tiles)])["logits"]
    with TritonServer(first, cache=server_cache) as server:
        engine = TritonEngine(server.url)
        assert [engine.manifest("small", version).version for version in (1, 2)] == [1, 2]
        ensemble = engine.infer("small", {"tiles": tiles})["logits"]
        np.testing.assert_allclose(ensemble, -expected, atol=1e-5)
        for version, sign in ((1, 1), (2, -1)):
            features = engine.infer("small_extractor", {"tiles": tiles}, version=version)
            logits = engine.infer("small_diagnosis", features, version=version)["logits"]
            np.testing.assert_allclose(logits, sign * expected, atol=1e-5)
        engine.close()


@pytest.mark.parametrize(
    ("choice", "change", "begun"),
    [
        (ModelChoice("small"), add_second, [1, 2]),
        (ModelChoice("small"), replace_first, [1, 2]),
        (ModelChoice("small", 1), add_second, [1]),
        (ModelChoice("small"), lambda repository, second: None, [1]),
    ],
    ids=["newer", "newer, and the old one gone", "newer, but pinned", "only restarted"],
)
def test_a_slide_is_of_one_version_though_the_server_restarts_with_another(
    first: Path,
    versions: Versions,
    server_cache: Path | None,
    choice: ModelChoice,
    change: Change,
    begun: list[int],
) -> None:
    with Restarting(first, server_cache) as server:
        slide = Slide(server, choice)
        diagnosis = server.run(slide.diagnose, while_down=lambda: change(first, versions[1]))
    assert server.kills == 1
    assert slide.begun == begun
    np.testing.assert_allclose(diagnosis.logits, EXPECTED[begun[-1]], atol=1e-5)


def test_a_pinned_version_that_is_gone_is_the_models_fault(
    first: Path, versions: Versions, server_cache: Path | None
) -> None:
    with Restarting(first, server_cache) as server:
        slide = Slide(server, ModelChoice("small", 1))
        with pytest.raises(ModelError, match="version 1"):
            server.run(slide.diagnose, while_down=lambda: replace_first(first, versions[1]))
