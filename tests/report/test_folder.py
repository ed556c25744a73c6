import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sagdeploy.errors import OutputError
from sagdeploy.files import sha256_of
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.folder import write_failure, write_results
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.scale import COLOURS
from sagdeploy.slides.slide import Slide

NAMES = [
    "attention.geojson",
    "attention.ome.tif",
    "attention.png",
    "prediction.json",
    "report.html",
    "tiles.csv",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_folder_holds_every_result_and_its_hash(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "slide-7"
    record = write_results(prediction, slide, folder)
    assert sorted(contents(folder)) == NAMES
    assert record.artefacts == {
        name: sha256_of(folder / name) for name in NAMES if name != "prediction.json"
    }
    assert PredictionRecord.model_validate_json((folder / "prediction.json").read_text()) == record
    assert [path.name for path in folder.parent.iterdir()] == ["slide-7"]


def test_the_same_prediction_gives_the_same_bytes(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        write_results(prediction, slide, tmp_path / name)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_the_lesion_on_the_slide_is_what_lights_up_on_the_map(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    write_results(prediction, slide, tmp_path / "s")
    picture = np.asarray(Image.open(BytesIO((tmp_path / "s" / "attention.png").read_bytes())))
    lesion = np.array([120, 10, 40]) * (111 / 255) + COLOURS[255] * (144 / 255)
    rows, columns = np.nonzero((abs(picture - lesion) < 1).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 199, 300, 399)


def test_several_magnifications_lie_one_below_the_other(
    make_prediction: Callable[..., Prediction], slide: Slide, tmp_path: Path
) -> None:
    heights = []
    for scales in (1, 2):
        write_results(make_prediction(scales=scales), slide, tmp_path / str(scales))
        with Image.open(tmp_path / str(scales) / "attention.png") as picture:
            heights.append(picture.height)
    assert heights[1] == 2 * heights[0]


def test_an_earlier_result_goes_as_a_whole(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    write_results(prediction, slide, tmp_path / "s")
    (tmp_path / "s" / "stale.txt").write_text("of an older version")
    record = write_failure(SlideOutcome("slide-7", "failed", 3, "corrupt"), tmp_path / "s")
    assert list(contents(tmp_path / "s")) == ["prediction.json"]
    saved = json.loads((tmp_path / "s" / "prediction.json").read_text())
    assert saved == record.model_dump(mode="json")


def test_a_failed_write_leaves_the_earlier_result_alone(
    make_prediction: Callable[..., Prediction], slide: Slide, tmp_path: Path
) -> None:
    write_results(make_prediction(), slide, tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(ValueError, match="zip"):
        write_results(make_prediction(tissue_coverage=()), slide, tmp_path / "s")
    assert contents(tmp_path / "s") == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_folder_that_cannot_be_written_is_an_output_error(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_results(prediction, slide, tmp_path / "file" / "s")


def test_no_file_names_the_slide_s_file_its_folder_or_the_server(
    prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    write_results(prediction, slide, tmp_path / "s")
    for name, data in contents(tmp_path / "s").items():
        for secret in (slide.path.stem, slide.path.parent.name, str(tmp_path), "hospital.example"):
            assert secret.encode() not in data, name
