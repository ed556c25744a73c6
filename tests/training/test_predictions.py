import csv
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.training.alignment import AttentionScores
from sagdeploy.training.faithfulness import FaithfulnessScores
from sagdeploy.training.judgement import Judged, SlideJudgement
from sagdeploy.training.predictions import read_predictions, write_predictions

CLASSES = ("benign", "naevus", "melanoma")


def judged() -> Judged:
    rng = np.random.default_rng(3)

    def slide(name: str, label: int) -> SlideJudgement:
        return SlideJudgement(
            slide_id=name,
            patient_id=f"p-{name}",
            label=label,
            probabilities=rng.dirichlet(np.ones(3)),
            attention=AttentionScores(0.5, 0.25, None, 0.125, None, 1.0, None),
            faithfulness=FaithfulnessScores(0.5, 0.75, -0.25, None),
        )

    return {
        (3, None): [slide("a", 1), slide("b", 2)],
        (4, 1): [slide("a", 1)],
    }


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, judged(), CLASSES)
    first, second = judged(), read_predictions(path, CLASSES)
    assert list(first) == list(second)
    for key, slides in first.items():
        for before, after in zip(slides, second[key], strict=True):
            assert (before.slide_id, before.patient_id) == (after.slide_id, after.patient_id)
            assert before.label == after.label
            assert np.array_equal(before.probabilities, after.probabilities)
            assert before.attention == after.attention
            assert before.faithfulness == after.faithfulness


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", "carcinoma"),
        ("seed", "x"),
        ("probability_naevus", "1.5"),
        ("probability_benign", "nan"),
        ("attention_on_tissue", "inf"),
    ],
)
def test_a_row_that_is_not_ours_is_refused_with_its_line(
    tmp_path: Path, column: str, value: str
) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(path, judged(), CLASSES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[1][column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ModelError, match="line 3 is not ours"):
        read_predictions(path, CLASSES)


def test_a_table_without_its_columns_or_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("slide_id\ns1\n")
    with pytest.raises(ModelError, match="not ours"):
        read_predictions(path, CLASSES)
    path.write_bytes("slide_id\ncäse\n".encode("latin-1"))
    with pytest.raises(ModelError, match="not ours"):
        read_predictions(path, CLASSES)
    write_predictions(path, {}, CLASSES)
    with pytest.raises(ModelError, match="names no slide"):
        read_predictions(path, CLASSES)
    with pytest.raises(ConfigError, match="no predictions"):
        read_predictions(tmp_path / "gone.csv", CLASSES)
