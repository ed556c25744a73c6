"""What is done stays, what changed is done again, and what does not go together is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sagdeploy.audit import verify
from sagdeploy.batch import Batch, BatchResult, predict_batch
from sagdeploy.errors import OutputError
from sagdeploy.files import write_json
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.report.record import PredictionRecord
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests import dicom

SMALL = (640, 470)


@pytest.fixture(scope="module")
def engine(repository: Path) -> LocalEngine:
    return LocalEngine(repository)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, engine: LocalEngine) -> Path:
    """Slides `a.tiff` and `b.tiff`, and their results in `out`."""
    folder = tmp_path_factory.mktemp("written")
    for seed, name in enumerate("ab"):
        paint_slide(folder / f"{name}.tiff", SlideSpec(seed=seed, size_l0=SMALL, grade=1.0))
    predict(folder, engine)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def predict(
    folder: Path, engine: LocalEngine, *names: str, mpp: float | None = None, **changes: object
) -> BatchResult:
    """Diagnose the slides of a folder into `out`; both where no names are given."""
    slides = [SlideInput(name, folder / f"{name}.tiff") for name in names or "ab"]
    batch = Batch(engine, ModelChoice("sag"), folder / "out", PredictOptions(mpp))
    return predict_batch(slides, replace(batch, **changes))  # type: ignore[arg-type]


def redone(result: BatchResult) -> list[str]:
    """Ids of the slides that were not up to date."""
    return [
        outcome.slide_id
        for outcome in result.outcomes
        if not outcome.message.startswith("up to date")
    ]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in (folder / "out").rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in ("run.json", ".lock")
    }


def test_what_is_done_is_not_done_again(folder: Path, engine: LocalEngine) -> None:
    before = contents(folder)
    assert redone(predict(folder, engine)) == []
    assert contents(folder) == before


def change_slide(folder: Path) -> None:
    paint_slide(folder / "a.tiff", SlideSpec(seed=9, size_l0=SMALL, grade=1.0))


def change_bytes_of_slide(folder: Path) -> None:
    """The same size and pixels, and another content: a byte between two tiles."""
    data = bytearray((folder / "a.tiff").read_bytes())
    data[-1] ^= 1
    (folder / "a.tiff").write_bytes(data)


def change_artefact(folder: Path) -> None:
    with (folder / "out/a/tiles.csv").open("a") as file:
        file.write("\n")


def lose_artefact(folder: Path) -> None:
    (folder / "out/a/report.html").unlink()


def add_file(folder: Path) -> None:
    (folder / "out/a/old.txt").touch()


def change_probability(folder: Path) -> None:
    """A record that is whole by itself, but not the one that the run has noted."""
    path = folder / "out/a/prediction.json"
    record = json.loads(path.read_text())
    record["prediction"]["probabilities"]["benign"] = 0.123
    write_json(path, record)


def cut_record(folder: Path) -> None:
    path = folder / "out/a/prediction.json"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    "change",
    [change_artefact, lose_artefact, add_file, change_probability, cut_record],
)
def test_results_that_are_not_as_written_are_made_again(
    change: Callable[[Path], None], folder: Path, engine: LocalEngine
) -> None:
    before = contents(folder)
    change(folder)
    assert redone(predict(folder, engine)) == ["a"]
    assert contents(folder) == before
    assert verify(folder / "out").findings == ()


@pytest.mark.parametrize("change", [change_slide, change_bytes_of_slide])
def test_another_content_of_the_slide_is_another_result(
    change: Callable[[Path], None], folder: Path, engine: LocalEngine
) -> None:
    change(folder)
    result = predict(folder, engine)
    assert redone(result) == ["a"] or result.outcomes[0].status == "failed"


def test_another_content_of_any_file_of_a_slide_is_another_result(
    folder: Path, engine: LocalEngine, shared_data: Path
) -> None:
    whole, half = dicom.write_series(folder / "series", shared_data / "slides" / dicom.NAME)
    slides = [SlideInput("d", whole)]
    batch = Batch(engine, ModelChoice("sag"), folder / "series-out", PredictOptions(0.5))
    assert redone(predict_batch(slides, batch)) == ["d"]
    assert redone(predict_batch(slides, batch)) == []
    data = bytearray(half.read_bytes())
    data[-20] ^= 1
    half.write_bytes(data)
    assert redone(predict_batch(slides, batch)) == ["d"]


def test_a_slide_that_cannot_be_looked_at_stops_no_other(folder: Path, engine: LocalEngine) -> None:
    """`b` has results, but its path is now one that the system refuses to look at."""
    hidden = SlideInput("b", folder / ("x" * 300) / "b.tiff")
    slides = [SlideInput("a", folder / "a.tiff"), hidden]
    batch = Batch(engine, ModelChoice("sag"), folder / "out", PredictOptions())
    result = predict_batch(slides, batch)
    assert [outcome.status for outcome in result.outcomes] == ["done", "failed"]
    assert result.outcomes[1].message.startswith("File name too long")


def test_results_of_other_parameters_are_refused_or_replaced(
    folder: Path, engine: LocalEngine
) -> None:
    before = contents(folder)
    with pytest.raises(OutputError, match="a by no mpp, no mpp_source"):
        predict(folder, engine, mpp=0.4)
    assert contents(folder) == before
    assert redone(predict(folder, engine, mpp=0.4, overwrite=True)) == ["a", "b"]


class Retrained(LocalEngine):
    """Another model under the same name and number."""

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        return super().manifest(model, version).model_copy(update={"software": {"torch": "9"}})


def test_results_of_another_model_are_refused_or_replaced(folder: Path, repository: Path) -> None:
    retrained = Retrained(repository)
    for slides in ("a", "b"), ("a",):
        with pytest.raises(OutputError, match="b by sag version 1"):
            predict(folder, retrained, *slides)
    assert redone(predict(folder, retrained, overwrite=True)) == ["a", "b"]


def test_results_of_another_sagdeploy_are_refused(folder: Path, engine: LocalEngine) -> None:
    path = folder / "out/a/prediction.json"
    record = PredictionRecord.model_validate_json(path.read_text())
    older = record.model_copy(update={"software": record.software | {"sagdeploy": "0.0.1"}})
    write_json(path, older.model_dump(mode="json"))
    with pytest.raises(OutputError, match=r"sagdeploy 0\.0\.1"):
        predict(folder, engine)


def test_slides_of_earlier_runs_keep_their_rows(folder: Path, engine: LocalEngine) -> None:
    paint_slide(folder / "c.tiff", SlideSpec(seed=3, size_l0=SMALL, grade=1.0))
    predict(folder, engine, "c")
    table = (folder / "out/predictions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table] == ["slide_id", "c", "a", "b"]
    assert verify(folder / "out").findings == ()


def test_results_of_earlier_runs_are_read_once(folder: Path, engine: LocalEngine) -> None:
    paint_slide(folder / "c.tiff", SlideSpec(seed=3, size_l0=SMALL, grade=1.0))
    batch = Batch(engine, ModelChoice("sag"), folder / "out", PredictOptions())

    def take_away(outcome: SlideOutcome) -> SlideOutcome:
        shutil.rmtree(folder / "out/a")  # so that no later reading would find it
        return outcome

    predict_batch([SlideInput("c", folder / "c.tiff")], batch, report=take_away)
    table = (folder / "out/predictions.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table] == ["slide_id", "c", "a", "b"]


def test_a_folder_that_is_not_ours_is_not_replaced(folder: Path, engine: LocalEngine) -> None:
    (folder / "out/c").mkdir()
    (folder / "out/c/Slidedat.ini").write_text("the pixels of c.mrxs")
    with pytest.raises(OutputError, match="c: not results of sagdeploy"):
        predict(folder, engine, "c", "a")
    assert (folder / "out/c/Slidedat.ini").read_text() == "the pixels of c.mrxs"


def test_the_scale_of_a_table_wins_over_the_slide_and_loses_to_the_command(
    folder: Path, engine: LocalEngine
) -> None:
    slides = [SlideInput("a", folder / "a.tiff", mpp=0.45), SlideInput("b", folder / "b.tiff")]
    batch = Batch(engine, ModelChoice("sag"), folder / "cohort", PredictOptions())
    records = predict_batch(slides, batch).records
    assert [record.slide.mpp.source for record in records if record.slide] == ["cohort", "metadata"]
    forced = replace(batch, out=folder / "forced", options=PredictOptions(0.4))
    records = predict_batch(slides, forced).records
    assert [record.slide.mpp.value for record in records if record.slide] == [0.4, 0.4]


def test_the_first_bad_slide_ends_a_batch_that_is_to_fail_fast(
    folder: Path, engine: LocalEngine
) -> None:
    result = predict(folder, engine, "a", "none", "b", fail_fast=True)
    assert [outcome.status for outcome in result.outcomes] == ["done", "failed"]
    assert result.exit_code == 8
    run = json.loads((folder / "out/run.json").read_text())
    assert run["status"] == "stopped"
    assert [row["status"] for row in run["slides"]] == ["done", "failed", "unfinished"]
    table = (folder / "out/predictions.csv").read_text().splitlines()
    assert table[-1].startswith("b,unfinished,,")


def test_what_a_killed_run_has_replaced_is_whole_and_not_done_again(
    folder: Path, engine: LocalEngine
) -> None:
    """The copy is what a kill leaves: a new result that no journal has noted yet."""

    def kill(outcome: SlideOutcome) -> None:
        if outcome.slide_id == "a":
            shutil.copytree(folder / "out", folder / "killed")

    slides = [SlideInput(name, folder / f"{name}.tiff") for name in "ab"]
    options = PredictOptions(0.4)
    batch = Batch(engine, ModelChoice("sag"), folder / "out", options, overwrite=True)
    predict_batch(slides, batch, report=kill)
    found = verify(folder / "killed").findings
    assert {finding.kind for finding in found} == {"unfinished"}
    assert redone(predict_batch(slides, replace(batch, out=folder / "killed"))) == ["b"]


def test_a_second_writer_is_told_who_the_first_is(folder: Path, engine: LocalEngine) -> None:
    told = []

    def second(outcome: object) -> None:
        with pytest.raises(OutputError, match=r"process \d+, since 20\d\d-") as error:
            predict(folder, engine)
        told.append(error)

    slides = [SlideInput("a", folder / "a.tiff")]
    batch = Batch(engine, ModelChoice("sag"), folder / "out", PredictOptions())
    predict_batch(slides, batch, report=second)
    assert len(told) == 1
