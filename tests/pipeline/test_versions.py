"""A slide is done by one version of a model, whatever is published meanwhile."""

from pathlib import Path

import pytest

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.versions import ATTEMPTS, ModelChoice, by_one_version
from sagdeploy.serving.local import LocalEngine

LATEST, PINNED = ModelChoice("sag"), ModelChoice("sag", 1)


@pytest.fixture(scope="module")
def first(repository: Path) -> Manifest:
    """The version that a slide begins with."""
    return LocalEngine(repository).manifest("sag")


@pytest.fixture(scope="module")
def second(first: Manifest) -> Manifest:
    """The version that is published under way."""
    return first.model_copy(update={"version": 2})


class Server(LocalEngine):
    """Serves one manifest as the latest, until a test publishes another."""

    def __init__(self, *served: Manifest) -> None:
        self.served = list(served)

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        """The one of that version, or the last one."""
        for manifest in reversed(self.served):
            if version in (None, manifest.version):
                return manifest
        raise ModelError(f"no version {version}")


def test_work_is_done_once_where_nothing_changes(first: Manifest) -> None:
    begun = []

    def work(manifest: Manifest) -> int:
        begun.append(manifest)
        return manifest.version

    assert by_one_version(Server(first), LATEST, work) == 1
    assert begun == [first]


def test_work_is_done_again_by_the_version_that_came_meanwhile(
    first: Manifest, second: Manifest
) -> None:
    engine, begun = Server(first), []

    def work(manifest: Manifest) -> int:
        begun.append(manifest.version)
        engine.served.append(second)
        return manifest.version

    assert by_one_version(engine, LATEST, work) == 2
    assert begun == [1, 2]


def test_a_pinned_version_stays_whatever_comes(first: Manifest, second: Manifest) -> None:
    engine, begun = Server(first), []

    def work(manifest: Manifest) -> int:
        begun.append(manifest.version)
        engine.served.append(second)
        return manifest.version

    assert by_one_version(engine, PINNED, work) == 1
    assert begun == [1]


def test_another_model_under_the_same_number_is_a_change(first: Manifest) -> None:
    other = first.model_copy(update={"diagnosis_sha256": "f" * 64})
    engine = Server(first)

    def work(manifest: Manifest) -> str:
        engine.served = [other]
        return manifest.diagnosis_sha256

    assert by_one_version(engine, PINNED, work) == "f" * 64


def test_a_refusal_by_a_version_that_is_gone_is_no_failure(
    first: Manifest, second: Manifest
) -> None:
    engine = Server(first)

    def work(manifest: Manifest) -> int:
        if manifest.version == 1:
            engine.served = [second]
            raise ModelError("version 1 is not found")
        return manifest.version

    assert by_one_version(engine, LATEST, work) == 2
    engine.served = [first]
    with pytest.raises(ModelError, match="no version 1"):
        by_one_version(engine, PINNED, work)


def test_a_refusal_by_the_version_that_is_there_is_final(first: Manifest) -> None:
    def work(manifest: Manifest) -> int:
        raise ModelError("features are [5], not [6]")

    with pytest.raises(ModelError, match="features"):
        by_one_version(Server(first), LATEST, work)


def test_a_model_that_never_stays_is_given_up(first: Manifest) -> None:
    engine, begun = Server(first), []

    def work(manifest: Manifest) -> None:
        begun.append(manifest.version)
        engine.served.append(first.model_copy(update={"version": manifest.version + 1}))

    with pytest.raises(EngineError, match="changed 3 times") as raised:
        by_one_version(engine, LATEST, work)
    assert raised.value.exit_code == 6
    assert "--model-version" in raised.value.hint
    assert len(begun) == ATTEMPTS
