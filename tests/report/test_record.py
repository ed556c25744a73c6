import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from sagdeploy.files import canonical_json
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.findings import failure_of, record_of
from sagdeploy.report.record import NUMBERS, PredictionRecord, record_schema
from sagdeploy.serving.engine import Diagnosis

SCHEMA = Path(__file__).parents[2] / "schemas" / "prediction.schema.json"
FAILURE = SlideOutcome("slide-8", "not_analysable", 4, "slide-8: no tissue")


def as_json(record: PredictionRecord) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(canonical_json(record.model_dump(mode="json")))
    return value


def test_the_published_schema_is_the_record_s() -> None:
    assert SCHEMA.read_text() == canonical_json(record_schema()), (
        "write it again: write_json(Path('schemas/prediction.schema.json'), record_schema())"
    )


@pytest.mark.parametrize("scales", [1, 3])
def test_a_record_of_a_diagnosis_follows_the_schema(
    make_prediction: Callable[..., Prediction], scales: int
) -> None:
    record = as_json(record_of(make_prediction(scales=scales), {"tiles.csv": "ab"}))
    jsonschema.Draft202012Validator(record_schema()).validate(record)


def test_a_record_of_a_failure_follows_the_schema_and_holds_no_number() -> None:
    record = as_json(failure_of(FAILURE))
    jsonschema.Draft202012Validator(record_schema()).validate(record)
    assert record["error"] == {"code": 4, "message": "slide-8: no tissue"}
    assert all(record[name] is None for name in NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_neither_model_nor_schema_takes_half_a_record(prediction: Prediction, name: str) -> None:
    done, failed = as_json(record_of(prediction, {})), as_json(failure_of(FAILURE))
    for bad in (done | {name: None}, failed | {name: done[name]}):
        with pytest.raises(ValidationError, match="numbers"):
            PredictionRecord.model_validate(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, record_schema())


def test_an_error_belongs_to_a_slide_that_is_not_done(prediction: Prediction) -> None:
    done, failed = as_json(record_of(prediction, {})), as_json(failure_of(FAILURE))
    for bad in (done | {"error": failed["error"]}, failed | {"error": None}):
        with pytest.raises(ValidationError, match="error"):
            PredictionRecord.model_validate(bad)


def test_a_record_survives_its_file(prediction: Prediction) -> None:
    record = record_of(prediction, {"tiles.csv": "ab"})
    assert PredictionRecord.model_validate(as_json(record)) == record


def test_the_same_prediction_is_the_same_bytes(make_prediction: Callable[..., Prediction]) -> None:
    first, second = (record_of(make_prediction(), {}).model_dump(mode="json") for _ in range(2))
    assert canonical_json(first) == canonical_json(second)


def test_the_diagnosis_is_the_likeliest_class(prediction: Prediction) -> None:
    diagnosis = record_of(prediction, {}).prediction
    assert diagnosis is not None
    assert diagnosis.label == "naevus"
    assert diagnosis.calibrated
    shares = sorted(diagnosis.probabilities.values())
    assert diagnosis.margin == pytest.approx(shares[-1] - shares[-2])


def test_a_probability_a_rounding_above_one_is_one(
    make_prediction: Callable[..., Prediction],
) -> None:
    base = make_prediction()
    certain = Diagnosis(
        np.array([0, 1 + 2e-7, 0], np.float32), base.diagnosis.logits, base.diagnosis.attention
    )
    diagnosis = record_of(make_prediction(diagnosis=certain), {}).prediction
    assert diagnosis is not None
    assert diagnosis.probabilities["naevus"] == 1


def test_floats_have_nine_digits(prediction: Prediction) -> None:
    attention = record_of(prediction, {}).attention
    assert attention is not None
    for tile in attention[0].top_tiles:
        assert tile.attention == float(f"{tile.attention:.9g}")


def test_top_tiles_start_with_the_hottest(prediction: Prediction) -> None:
    attention = record_of(prediction, {}).attention
    assert attention is not None
    top = attention[0].top_tiles
    assert top[0].xy_l0 == (300, 100)
    assert top[0].percentile == 100
    assert [tile.attention for tile in top] == sorted((t.attention for t in top), reverse=True)


@pytest.mark.parametrize(
    ("attention", "shown"),
    [
        (np.array([0.5, 0.3, *[0.2 / 58] * 58], np.float32), 2),
        (np.linspace(1.5, 0.5, 60, dtype=np.float32) / 60, 10),
        (np.full(60, 1 / 60, np.float32), 1),  # in float32 it is above a sixtieth
    ],
)
def test_tiles_with_no_more_than_an_even_share_are_no_top_tiles(
    make_prediction: Callable[..., Prediction], attention: NDArray[np.float32], shown: int
) -> None:
    base = make_prediction()
    diagnosis = Diagnosis(base.diagnosis.probabilities, base.diagnosis.logits, (attention,))
    record = record_of(make_prediction(diagnosis=diagnosis), {})
    assert record.attention is not None
    assert [tile.attention for tile in record.attention[0].top_tiles] == pytest.approx(
        attention[:shown].tolist()
    )


def test_half_of_the_attention_is_counted_in_whole_tiles(
    make_prediction: Callable[..., Prediction],
) -> None:
    base = make_prediction()
    attention = np.zeros(60, np.float32)
    attention[[3, 20, 41]] = [0.3, 0.3, 0.4]
    diagnosis = Diagnosis(base.diagnosis.probabilities, base.diagnosis.logits, (attention,))
    tissue = np.zeros(60)
    tissue[[3, 4]] = 0.5
    record = record_of(make_prediction(diagnosis=diagnosis, tissue_coverage=(tissue,)), {})
    assert record.attention is not None
    assert record.attention[0].tiles_with_half == 2
    assert record.attention[0].on_tissue == pytest.approx(0.15)
    assert record.attention[0].on_tissue_if_even == pytest.approx(1 / 60)
