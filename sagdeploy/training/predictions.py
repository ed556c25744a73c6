"""What the seeds of a run say of every slide, as a table from which its numbers follow.

RUN/predictions_<split>.csv     one row a seed (or fold of a seed) and slide
"""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.files import write_bytes
from sagdeploy.training.alignment import ATTENTION_METRICS, AttentionScores
from sagdeploy.training.faithfulness import FAITHFULNESS_METRICS, FaithfulnessScores
from sagdeploy.training.judgement import Judged, SlideJudgement
from sagdeploy.training.panel import SLIDE_METRICS, slide_scores
from sagdeploy.training.thresholds import THRESHOLD_METRICS, ThresholdScores

PREFIX = "probability_"
COLUMNS = ("seed", "fold", "slide_id", "patient_id", "label", "predicted")
SUM_TOLERANCE = 1e-6


def predictions_file(run: Path, split: str) -> Path:
    """Where the predictions of a run on a split lie."""
    return run / f"predictions_{split}.csv"


def write_predictions(path: Path, judged: Judged, classes: Sequence[str]) -> None:
    """Write what each seed says of its slides."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{PREFIX}{name}" for name in classes), *SLIDE_METRICS])
    for (seed, fold), slides in judged.items():
        for slide in slides:
            answer = classes[int(slide.probabilities.argmax())]
            row = [seed, fold, slide.slide_id, slide.patient_id, classes[slide.label], answer]
            writer.writerow([*row, *slide.probabilities.tolist(), *slide_scores(slide)])
    write_bytes(path, text.getvalue().encode())


def read_predictions(path: Path, classes: Sequence[str]) -> Judged:
    """What `write_predictions` wrote; what its attention found of lesions is not in it.

    ConfigError where there is no such file, ModelError with the line that is not ours.
    """
    rows = csv.DictReader(StringIO(_text(path), newline=""), strict=True)
    judged: dict[tuple[int, int | None], list[SlideJudgement]] = {}
    try:
        for row in rows:
            key = int(row["seed"]), int(row["fold"]) if row["fold"] else None
            judged.setdefault(key, []).append(_judgement(row, classes))
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise ModelError(
            f"{path}: line {rows.line_num} is not ours: {error!r}",
            hint="delete it and evaluate again",
        ) from error
    if not judged:
        raise ModelError(f"{path}: names no slide", hint="delete it and evaluate again")
    return judged


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no predictions", hint="run sagdeploy evaluate")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path}: is not ours: {error}", hint="delete it and evaluate again"
        ) from error


def _judgement(row: Mapping[str, str], classes: Sequence[str]) -> SlideJudgement:
    probabilities = np.array([float(row[f"{PREFIX}{name}"]) for name in classes])
    if not (probabilities >= 0).all() or abs(probabilities.sum() - 1) > SUM_TOLERANCE:
        raise ValueError(f"probabilities {probabilities.tolist()} do not sum to 1")
    return SlideJudgement(
        slide_id=row["slide_id"],
        patient_id=row["patient_id"],
        label=classes.index(row["label"]),
        probabilities=probabilities,
        attention=AttentionScores(**{name: _number(row[name]) for name in ATTENTION_METRICS}),
        faithfulness=FaithfulnessScores(
            **{name: _number(row[name]) for name in FAITHFULNESS_METRICS}
        ),
        thresholded=ThresholdScores(**{name: _number(row[name]) for name in THRESHOLD_METRICS}),
    )


def _number(cell: str) -> float | None:
    if not cell:
        return None
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{cell!r} is no number")
    return value
