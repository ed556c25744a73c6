"""A changed byte anywhere in a folder of results is found, and named."""

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from sagdeploy.audit import Finding, verify
from sagdeploy.bags.bag import with_guidance
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.batch import Batch, predict_batch
from sagdeploy.errors import ConfigError
from sagdeploy.export.extractor import ExtractorSource, local_extraction
from sagdeploy.files import write_json
from sagdeploy.pipeline.extract import extract_cohort
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.tiling import TilePlan

CHANGES = 1000
BAD_BLOCK = "/proc/self/mem"
"""A file that is there, and of which nothing can be read."""


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


@pytest.mark.parametrize(
    "name", ["run.json", "predictions.csv", "bad/prediction.json", "good/tiles.csv"]
)
def test_what_cannot_be_read_is_named_with_all_else_that_is_wrong(name: str, out: Path) -> None:
    (out / name).unlink()
    (out / name).symlink_to(BAD_BLOCK)
    (out / "notes.txt").touch()
    assert set(verify(out).findings) == {
        Finding("unreadable", name, "cannot be read: Input/output error"),
        Finding("extra", "notes.txt"),
    }


def test_a_training_run_is_a_usage_error_that_says_what_can_be_verified(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"arm": "baseline"})
    with pytest.raises(ConfigError, match="no results") as raised:
        verify(tmp_path)
    assert "predict or extract" in raised.value.hint
    with pytest.raises(ConfigError, match="No such file"):
        verify(tmp_path / "none")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, painted: Path) -> Path:
    """Bags `one` and `two`, of runs of their own, and what failed."""
    bags = tmp_path_factory.mktemp("extracted")
    extraction = local_extraction(ExtractorSource("stain_texture"), bags, TilePlan(tile_px=112))
    for slide_id, path in (("one", painted), ("two", painted), ("bad", bags / "none.svs")):
        row = CohortSlide(slide_id, path, "benign")
        list(extract_cohort(Cohort((row,), ("benign",), "0" * 64), bags, extraction))
    return bags


@pytest.fixture
def bags(extracted: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(extracted, tmp_path / "bags"))


def test_bags_that_were_only_guided_have_no_finding(bags: Path) -> None:
    bag = read_bag(bags / "one.h5")
    halves = [np.full(len(each), 0.5) for each in bag.magnifications]
    write_bag(bags / "one.h5", with_guidance(bag, tissue=halves))
    (bags / "one.hulls.geojson").touch()
    assert verify(bags).findings == ()


def test_bags_and_an_extractor_that_are_not_as_written_are_named(bags: Path) -> None:
    with h5py.File(bags / "one.h5", "r+") as file:
        file["features"][3, 2] += 1
    (bags / "two.h5").unlink()
    (bags / "three.h5").touch()
    with (bags / "extractor.onnx").open("ab") as graph:
        graph.write(b"more")
    assert [(finding.kind, finding.name) for finding in verify(bags).findings] == [
        ("changed", "one.h5"),
        ("missing", "two.h5"),
        ("changed", "extractor.onnx"),
        ("extra", "three.h5"),
    ]


@pytest.mark.parametrize("name", ["run.json", "extractor.json", "one.h5"])
def test_a_file_of_bags_that_was_cut_or_cannot_be_read_is_named(name: str, bags: Path) -> None:
    whole = (bags / name).read_bytes()
    (bags / name).write_bytes(whole[: len(whole) // 2] + b"\xff")
    assert [(finding.kind, finding.name) for finding in verify(bags).findings] == [
        ("changed", name)
    ]
    (bags / name).unlink()
    (bags / name).symlink_to(BAD_BLOCK)
    (finding,) = verify(bags).findings
    assert finding.name == name
