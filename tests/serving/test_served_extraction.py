"""Features through a server are those of the same extractor in this process."""

import csv
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.bags.bag import Bag
from sagdeploy.bags.bagfile import read_bag
from sagdeploy.bags.card import read_card, write_card
from sagdeploy.bags.cohort import read_cohort
from sagdeploy.cli.app import run
from sagdeploy.errors import BagError
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.bagging import Extraction
from sagdeploy.pipeline.extract import extract_cohort, served_extraction
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.server import TritonServer
from sagdeploy.slides.tiling import TilePlan
from tests.serving.engine_contract import TILE_PX

PLAN = TilePlan(tile_px=TILE_PX)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, painted: Path) -> Path:
    """`cohort.csv` of one slide."""
    path = tmp_path_factory.mktemp("table") / "cohort.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["slide_id", "slide_path", "label"], ["one", painted, "benign"]]
        )
    return path


@pytest.fixture
def manifest(repository: Path) -> Manifest:
    """Of the version that the server takes for the latest."""
    return LocalEngine(repository).manifest("small")


def extract(table: Path, server: TritonServer, out: Path) -> int:
    """Exit code of the command."""
    options = ["--server", server.url, "--extractor", "small", "--tile-px", str(TILE_PX)]
    return run(["extract", str(table), "--out", str(out), *options])


def in_process(table: Path, repository: Path, manifest: Manifest, out: Path) -> Bag:
    """The bag of the same extractor, without a server."""
    engine = LocalEngine(repository)
    work = Extraction(engine, "small_extractor", manifest.extractor, PLAN)
    (outcome,) = extract_cohort(read_cohort(table, need_labels=False), out, work)
    assert outcome.status == "done", outcome.message
    return read_bag(out / "one.h5")


def test_the_command_writes_what_the_extractor_in_process_writes(
    table: Path, server: TritonServer, repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    assert extract(table, server, tmp_path / "served") == 0
    ours = read_bag(tmp_path / "served" / "one.h5")
    theirs = in_process(table, repository, manifest, tmp_path / "local")
    assert ours.header == theirs.header
    (our,), (their,) = ours.magnifications, theirs.magnifications
    assert len(our.features) > 256
    np.testing.assert_allclose(our.features, their.features, atol=1e-5)


def test_the_card_is_that_of_the_models_manifest(
    table: Path, server: TritonServer, manifest: Manifest, tmp_path: Path
) -> None:
    extract(table, server, tmp_path)
    assert read_card(tmp_path) == manifest.extractor


def test_the_same_command_resumes(
    table: Path, server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(table, server, tmp_path)
    capsys.readouterr()
    assert extract(table, server, tmp_path) == 0
    assert "up to date" in capsys.readouterr().err


def test_a_folder_of_another_extractor_is_refused(
    server: TritonServer, manifest: Manifest, tmp_path: Path
) -> None:
    write_card(tmp_path, manifest.extractor.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(BagError, match="ramp"):
        served_extraction(server.url, "small", tmp_path, PLAN)


def test_a_model_that_is_not_there_is_exit_5(
    table: Path, server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["extract", str(table), "--out", str(tmp_path), "--server", server.url]) == 5
    assert "mobilenet_v2" in capsys.readouterr().err


def test_weights_are_not_for_a_server(
    table: Path, server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--server", server.url, "--weights", "weights.pt"]
    assert run(["extract", str(table), "--out", str(tmp_path), *options]) == 2
    assert "--weights" in capsys.readouterr().err


class Replaced(LocalEngine):
    """Serves another model under the same number, once the extraction has begun."""

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        return super().manifest(model, version).model_copy(update={"diagnosis_sha256": "0" * 64})


def test_no_bag_is_written_of_what_a_replaced_model_answered(
    table: Path, repository: Path, manifest: Manifest, tmp_path: Path
) -> None:
    engine = Replaced(repository)
    work = Extraction(engine, "small_extractor", manifest.extractor, PLAN, manifest=manifest)
    (outcome,) = extract_cohort(read_cohort(table, need_labels=False), tmp_path, work)
    assert (outcome.status, outcome.exit_code) == ("failed", 6)
    assert not (tmp_path / "one.h5").exists()
