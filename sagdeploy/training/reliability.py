"""Whether probabilities can be believed: how often answers of each confidence are right.

RUN/reliability_<split>.svg
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sagdeploy.files import write_bytes
from sagdeploy.training.axis import Axis
from sagdeploy.training.chart import Bars, Chart, Dots, Line, sheet
from sagdeploy.training.evaluate import Split, read_evaluation
from sagdeploy.training.intervals import wilson_interval
from sagdeploy.training.judgement import SlideJudgement
from sagdeploy.training.metrics import ECE_BINS, Float64
from sagdeploy.training.predictions import predictions_file, read_predictions
from sagdeploy.training.svg import PALETTE, SOFT


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Answers by their confidence, in the bins of the expected calibration error."""

    share: Float64
    """(ECE_BINS,) of all answers, by bin."""

    confidence: Float64
    """(K,) mean of the bins that have answers."""

    accuracy: Float64
    """(K,)"""

    low: Float64
    high: Float64
    """(K,) Wilson's interval, with as many answers as the bin has patients."""


def reliability_of(views: Sequence[Sequence[SlideJudgement]]) -> Reliability:
    """The answers of all seeds together."""
    slides = [slide for view in views for slide in view]
    confidence = np.array([slide.probabilities.max() for slide in slides])
    is_right = np.array([slide.probabilities.argmax() == slide.label for slide in slides])
    patients = np.array([slide.patient_id for slide in slides])
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    filled = np.unique(bins)
    accuracy = np.array([is_right[bins == index].mean() for index in filled])
    counts = [len(np.unique(patients[bins == index])) for index in filled]
    intervals = [wilson_interval(*each) for each in zip(accuracy.tolist(), counts, strict=True)]
    return Reliability(
        share=np.bincount(bins, minlength=ECE_BINS) / len(slides),
        confidence=np.array([confidence[bins == index].mean() for index in filled]),
        accuracy=accuracy,
        low=np.array([interval.low for interval in intervals]),
        high=np.array([interval.high for interval in intervals]),
    )


def draw_reliability(run: Path, path: Path, *, split: Split = "test") -> None:
    """Write the reliability diagram of an evaluated run into `path`."""
    evaluation = read_evaluation(run, split)
    judged = read_predictions(predictions_file(run, split), evaluation.classes)
    found = reliability_of(tuple(judged.values()))
    ends, edges = np.array([0.0, 1.0]), np.linspace(0, 1, ECE_BINS + 1)
    confidence = Axis("confidence: probability of the answer", 0, 1.02)
    diagram = Chart(
        "How often answers are right",
        confidence,
        Axis("share that is right", 0, 1.02),
        (
            Line(ends, ends, SOFT, "as often as they claim", width=1.2, dashed=True),
            Dots(found.confidence, found.accuracy, PALETTE[0], found.low, found.high),
        ),
    )
    counts = Chart(
        "How confident answers are",
        confidence,
        Axis("share of all answers", 0, max(found.share) * 1.08),
        (Bars(edges, found.share, PALETTE[0]),),
    )
    ece = evaluation.mean["ece"]
    note = (
        f"{evaluation.slides} slides of {evaluation.patients} patients ({split}), all seeds;"
        f" expected calibration error {ece:.3f}"
    )
    write_bytes(path, sheet([diagram, counts], title=evaluation.arm, note=note).encode())
