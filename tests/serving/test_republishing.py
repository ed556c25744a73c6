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
from tests.serving.engine_contract import diagnosis_of, features_of, publish_small, some_tiles
from tests.serving.noise import Noise, pixels_of, tiles_of
from tests.serving.restarting import Restarting

TILES = tiles_of(600)
HALFWAY = 300
EXPECTED = {
    version: diagnosis_of([features_of(pixels_of(TILES))], sign=sign)["logits"]
    for version, sign in ((1, 1.0), (2, -1.0))
}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A repository with version 1 of `small`."""
    publish_small(tmp_path / "models", tmp_path)
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


def publish_second(repository: Path, scratch: Path) -> None:
    assert publish_small(repository, scratch, sign=-1.0) == 2


def replace_first(repository: Path, scratch: Path) -> None:
    """Publish version 2, and take version 1 away."""
    publish_second(repository, scratch)
    for part in ("small_extractor", "small_diagnosis"):
        shutil.rmtree(repository / part / "1")


def test_a_server_holds_every_version_and_the_ensemble_answers_for_the_latest(
    first: Path, tmp_path: Path, server_cache: Path | None
) -> None:
    publish_second(first, tmp_path)
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
        (ModelChoice("small"), publish_second, [1, 2]),
        (ModelChoice("small"), replace_first, [1, 2]),
        (ModelChoice("small", 1), publish_second, [1]),
        (ModelChoice("small"), lambda repository, scratch: None, [1]),
    ],
    ids=["newer", "newer, and the old one gone", "newer, but pinned", "only restarted"],
)
def test_a_slide_is_of_one_version_though_the_server_restarts_with_another(
    first: Path,
    tmp_path: Path,
    server_cache: Path | None,
    choice: ModelChoice,
    change: Callable[[Path, Path], None],
    begun: list[int],
) -> None:
    with Restarting(first, server_cache) as server:
        slide = Slide(server, choice)
        diagnosis = server.run(slide.diagnose, while_down=lambda: change(first, tmp_path))
    assert server.kills == 1
    assert slide.begun == begun
    np.testing.assert_allclose(diagnosis.logits, EXPECTED[begun[-1]], atol=1e-5)


def test_a_pinned_version_that_is_gone_is_the_models_fault(
    first: Path, tmp_path: Path, server_cache: Path | None
) -> None:
    with Restarting(first, server_cache) as server:
        slide = Slide(server, ModelChoice("small", 1))
        with pytest.raises(ModelError, match="version 1"):
            server.run(slide.diagnose, while_down=lambda: replace_first(first, tmp_path))
