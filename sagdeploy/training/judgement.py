"""Slides as the seeds of a run see them: diagnosis, and where its attention lies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from sagdeploy.training.alignment import (
    AttentionScores,
    attention_scores,
    mean_attention,
)
from sagdeploy.training.calibration import calibrated
from sagdeploy.training.dataset import Bags, LabelledBag
from sagdeploy.training.faithfulness import (
    UNKNOWN,
    FaithfulnessScores,
    faithfulness,
    mean_faithfulness,
)
from sagdeploy.training.froc import NOTHING, SlideDetections, detect
from sagdeploy.training.inference import BagPrediction, predict_bags
from sagdeploy.training.landmarks import Landmarks
from sagdeploy.training.metrics import Float64
from sagdeploy.training.thresholds import (
    NO_THRESHOLD,
    ThresholdScores,
    mean_thresholded,
    threshold_scores,
)


@dataclass(frozen=True, slots=True, eq=False)
class SlideJudgement:
    """One slide as one seed, or the mean of the seeds, sees it."""

    slide_id: str
    patient_id: str
    label: int
    probabilities: Float64
    """(C,) calibrated"""

    attention: AttentionScores
    faithfulness: FaithfulnessScores = UNKNOWN
    detections: SlideDetections = NOTHING
    thresholded: ThresholdScores = NO_THRESHOLD


Judged = Mapping[tuple[int, int | None], Sequence[SlideJudgement]]
"""What each seed, or fold of a seed, says of its slides."""


def judge_slides(
    model: nn.Module,
    bags: Bags,
    *,
    temperature: float,
    threshold: float | None = None,
    landmarks: Landmarks | None = None,
    faithful_seed: int | None = None,
) -> list[SlideJudgement]:
    """What a model makes of each slide, and where its attention lies there.

    threshold:     chosen on validation, of the second of two classes
    landmarks:     for what its attention finds; without them nothing is to be found
    faithful_seed: of the random orders that faithfulness is compared with; None leaves it out
    """
    judged = []
    for bag in bags:
        (prediction,) = predict_bags(model, [bag])
        probabilities = calibrated(prediction.logits[None], temperature)[0]
        judged.append(
            SlideJudgement(
                bag.slide_id,
                bag.patient_id,
                bag.label,
                probabilities,
                attention_on(bag, prediction.attention),
                UNKNOWN
                if faithful_seed is None
                else faithfulness(
                    model, bag, prediction, temperature=temperature, seed=faithful_seed
                ),
                NOTHING
                if landmarks is None
                else _detections(bag, prediction, probabilities, landmarks),
                threshold_scores(probabilities, bag.label, threshold),
            )
        )
    return judged


def attention_on(bag: LabelledBag, maps: Sequence[Float64]) -> AttentionScores:
    """Where one (N,) map a magnification lies on a slide, mean over its magnifications."""
    magnifications = zip(maps, bag.tissue_coverage, bag.heuristic_coverage, strict=True)
    return mean_attention(
        attention_scores(attention, tissue=tissue, heuristic=heuristic)
        for attention, tissue, heuristic in magnifications
    )


def averaged(slides: Iterable[SlideJudgement]) -> list[SlideJudgement]:
    """Each slide once, by id, with the mean of what its seeds say; detections have no mean."""
    by_slide: dict[str, list[SlideJudgement]] = {}
    for slide in slides:
        by_slide.setdefault(slide.slide_id, []).append(slide)
    return [
        views[0] if len(views) == 1 else _average(views) for _, views in sorted(by_slide.items())
    ]


def _average(views: Sequence[SlideJudgement]) -> SlideJudgement:
    return SlideJudgement(
        views[0].slide_id,
        views[0].patient_id,
        views[0].label,
        np.mean([view.probabilities for view in views], axis=0),
        mean_attention(view.attention for view in views),
        mean_faithfulness(view.faithfulness for view in views),
        thresholded=mean_thresholded(view.thresholded for view in views),
    )


def _detections(
    bag: LabelledBag, prediction: BagPrediction, probabilities: Float64, landmarks: Landmarks
) -> SlideDetections:
    """What the attention finds at the finest magnification."""
    lesions = landmarks.lesions.get(bag.slide_id)
    magnifications = zip(bag.tiles, prediction.attention, strict=True)
    known = [(tiles, attention) for tiles, attention in magnifications if tiles is not None]
    is_known = bag.label in landmarks.normal or lesions is not None
    if not landmarks.normal or not known or not is_known:
        return NOTHING
    tiles, attention = min(known, key=lambda pair: pair[0].mpp)
    probability = 1 - probabilities[sorted(landmarks.normal)].sum()
    return detect(attention, tiles, lesions, probability=float(probability))
