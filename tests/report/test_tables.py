import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.findings import failure_of, record_of
from sagdeploy.report.tables import write_predictions, write_tiles


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tiles_have_a_row_each_with_place_and_attention(
    make_prediction: Callable[..., Prediction], tmp_path: Path
) -> None:
    prediction = make_prediction(scales=2)
    write_tiles(tmp_path / "tiles.csv", prediction)
    table = rows(tmp_path / "tiles.csv")
    assert [len([r for r in table if r["magnification"] == m]) for m in "01"] == [60, 24]
    hottest = max(table[:60], key=lambda row: float(row["attention"]))
    assert (hottest["x_l0"], hottest["y_l0"], hottest["width_l0"]) == ("300", "100", "100")
    assert hottest["attention_percentile"] == "100"
    assert sum(float(row["attention"]) for row in table[:60]) == pytest.approx(1, abs=1e-5)
    assert float(table[59]["tissue"]) == 1


def test_predictions_have_a_row_a_slide_and_no_number_where_there_is_none(
    prediction: Prediction, tmp_path: Path
) -> None:
    failure = failure_of(SlideOutcome("slide-8", "not_analysable", 4, "=cmd|' /C calc'!A0"))
    write_predictions(tmp_path / "p.csv", [record_of(prediction, {}), failure])
    done, failed = rows(tmp_path / "p.csv")
    assert done["status"] == "done"
    assert done["prediction"] == "naevus"
    shares = [float(done[f"prob_{name}"]) for name in prediction.manifest.classes]
    assert sum(shares) == pytest.approx(1)
    assert failed["prediction"] == failed["prob_normal"] == ""
    assert failed["message"] == "'=cmd|' /C calc'!A0"


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_text_that_a_spreadsheet_would_run_is_quoted(start: str, tmp_path: Path) -> None:
    failure = failure_of(SlideOutcome("slide-8", "failed", 3, f"{start}1+1"))
    write_predictions(tmp_path / "p.csv", [failure])
    assert rows(tmp_path / "p.csv")[0]["message"].startswith("'")


def test_a_batch_without_any_diagnosis_still_has_its_table(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", [failure_of(SlideOutcome("s", "failed", 3, "corrupt"))])
    assert (tmp_path / "p.csv").read_text() == (
        "slide_id,status,prediction,message\ns,failed,,corrupt\n"
    )
