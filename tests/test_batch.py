"""A batch leaves one record a slide, and files that others read."""

import csv
import json
import re
from pathlib import Path

import pytest

from sagdeploy.batch import Batch, BatchResult, predict_batch
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.local import LocalEngine
from tests.bigtiff import without_tiles

FILES = {
    "prediction.json",
    "attention.png",
    "attention.ome.tif",
    "attention.geojson",
    "tiles.csv",
    "report.html",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batch") / "out"


@pytest.fixture(scope="module")
def result(out: Path, painted: Path, repository: Path) -> BatchResult:
    engine = LocalEngine(repository)
    batch = Batch(engine, ModelChoice("sag"), out, PredictOptions())
    bad = out.parent / "bad.svs"
    bad.write_text("no slide")
    return predict_batch([SlideInput("good", painted), SlideInput("bad", bad)], batch)


def test_every_slide_has_one_record(result: BatchResult) -> None:
    assert [(record.slide_id, record.status) for record in result.records] == [
        ("good", "done"),
        ("bad", "failed"),
    ]


def test_a_slide_that_is_done_has_all_its_files(result: BatchResult, out: Path) -> None:
    assert {path.name for path in (out / "good").iterdir()} == FILES


def test_a_slide_that_failed_has_a_record_and_no_number(result: BatchResult, out: Path) -> None:
    record = json.loads((out / "bad" / "prediction.json").read_text())
    assert record["prediction"] is None
    assert record["attention"] is None
    assert record["error"]["code"] == 3


def test_missing_pixels_are_told_wherever_a_result_is_seen(
    out: Path, painted: Path, repository: Path
) -> None:
    slides = []
    for name, gone in (("holed", range(13, 15)), ("gone", range(100))):
        path = out.parent / f"{name}.tiff"
        path.write_bytes(without_tiles(painted.read_bytes(), gone))
        slides.append(SlideInput(name, path))
    out = out.parent / "missing"
    batch = Batch(LocalEngine(repository), ModelChoice("sag"), out, PredictOptions())
    holed, refused = predict_batch(slides, batch).outcomes
    record = json.loads((out / "holed" / "prediction.json").read_text())
    (warning,) = record["warnings"]
    assert warning["code"] == "missing_pixels"
    assert f"{100 * record['slide']['missing_share']:.1f} % of the pixels" in warning["message"]
    assert holed.message.endswith(f"; missing_pixels: {warning['message']}")
    assert warning["message"] in (out / "holed" / "report.html").read_text()
    assert (refused.status, refused.exit_code) == ("not_analysable", 4)
    assert {path.name for path in (out / "gone").iterdir()} == {"prediction.json"}


def test_the_table_has_a_row_for_every_slide(result: BatchResult, out: Path) -> None:
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == ["good", "bad"]
    assert float(rows[0]["prob_benign"]) + float(rows[0]["prob_malignant"]) == pytest.approx(1)
    assert rows[1]["prob_benign"] == ""


def test_the_run_says_what_ran_and_what_failed(result: BatchResult, out: Path) -> None:
    run = json.loads((out / "run.json").read_text())
    assert run["exit_code"] == 8
    assert [row["exit_code"] for row in run["slides"]] == [0, 3]
    assert (run["model"], run["model_versions"]) == ("sag", [1])


def test_the_run_says_what_bound_the_tiles(result: BatchResult, out: Path) -> None:
    good, bad = json.loads((out / "run.json").read_text())["slides"]
    assert re.fullmatch(r"(reader|extractor)-bound \d+ %", good["bound"])
    assert bad["bound"] is None


def test_nothing_half_written_is_left(result: BatchResult, out: Path) -> None:
    assert not list(out.rglob(".partial-*"))


def test_the_same_slide_gives_the_same_bytes(
    result: BatchResult, out: Path, painted: Path, repository: Path, tmp_path: Path
) -> None:
    engine = LocalEngine(repository)
    batch = Batch(engine, ModelChoice("sag"), tmp_path, PredictOptions())
    predict_batch([SlideInput("good", painted)], batch)
    for name in FILES:
        assert (tmp_path / "good" / name).read_bytes() == (out / "good" / name).read_bytes(), name


def test_no_output_names_a_place_or_the_slides_file(
    result: BatchResult, out: Path, painted: Path, repository: Path
) -> None:
    names = [str(painted.parent).encode(), str(repository).encode()]
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [name for name in names if name in data], path.name
