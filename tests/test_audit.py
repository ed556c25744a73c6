"""A changed byte anywhere in a folder of results is found, and named."""

import random
import shutil
from pathlib import Path

import pytest

from sagdeploy.audit import Finding, verify
from sagdeploy.batch import Batch, predict_batch
from sagdeploy.errors import ConfigError
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.local import LocalEngine

CHANGES = 1000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, painted: Path, repository: Path) -> Path:
    """Results of a slide that is done and of one that is none."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "bad.svs").write_text("no slide")
    slides = [SlideInput("good", painted), SlideInput("bad", folder / "bad.svs")]
    batch = Batch(LocalEngine(repository), ModelChoice("sag"), folder / "out", PredictOptions())
    predict_batch(slides, batch)
    return folder / "out"


@pytest.fixture
def out(written: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "out"))


def test_what_was_not_touched_has_no_finding(out: Path) -> None:
    audit = verify(out)
    assert audit.findings == ()
    assert audit.files == len([path for path in out.rglob("*") if path.is_file()])


def test_every_one_of_a_thousand_changed_bytes_is_found(out: Path) -> None:
    rng = random.Random(6)
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(CHANGES):
        path = rng.choice(files)
        data = bytearray(whole := path.read_bytes())
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        named = {finding.name for finding in verify(out).findings}
        assert str(path.relative_to(out)) in named, path
        path.write_bytes(whole)


def test_what_is_missing_is_named(out: Path) -> None:
    (out / "good" / "tiles.csv").unlink()
    (out / "bad" / "prediction.json").unlink()
    (out / "predictions.csv").unlink()
    assert set(verify(out).findings) == {
        Finding("missing", "good/tiles.csv"),
        Finding("missing", "bad/prediction.json"),
        Finding("missing", "predictions.csv"),
    }


def test_what_does_not_belong_there_is_named(out: Path) -> None:
    (out / "good" / "notes.txt").touch()
    (out / ".partial-left").mkdir()
    assert set(verify(out).findings) == {
        Finding("extra", "good/notes.txt"),
        Finding("extra", ".partial-left"),
    }


def test_a_record_under_another_name_is_found(out: Path) -> None:
    shutil.copytree(out / "good", out / "better")
    assert verify(out).findings == (Finding("changed", "better/prediction.json"),)


def test_an_exchanged_record_is_found_even_if_it_is_whole(out: Path, painted: Path) -> None:
    other = (out / "bad" / "prediction.json").read_text().replace("bad", "good")
    shutil.rmtree(out / "good")
    (out / "good").mkdir()
    (out / "good" / "prediction.json").write_text(other)
    assert verify(out).findings == (Finding("changed", "good/prediction.json"),)


def test_a_folder_without_results_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results"):
        verify(tmp_path)
