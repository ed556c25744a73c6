"""What a model in memory says of bags: features go in, masks and annotations do not."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sagdeploy.errors import ConfigError
from sagdeploy.training.alignment import attention_scores
from sagdeploy.training.batch import collate
from sagdeploy.training.calibration import calibrated
from sagdeploy.training.dataset import Bags, LabelledBag
from sagdeploy.training.metrics import Metrics, diagnosis_scores
from sagdeploy.training.terms import ClassLoss, class_loss


@dataclass(frozen=True, slots=True, eq=False)
class BagPrediction:
    """What a model says of one bag."""

    logits: NDArray[np.float64]
    """(C,)"""

    attention: tuple[NDArray[np.float64], ...]
    """(N,) a magnification, mean over layers and heads; sums to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What a model is worth on the validation slides."""

    logits: NDArray[np.float64]
    """(n, C)"""

    labels: NDArray[np.intp]
    """(n,)"""

    scores: Metrics
    """DiagnosisScores before calibration, and `loss`, the classification loss."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, inside the block only."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def predict_bags(model: nn.Module, bags: Iterable[LabelledBag]) -> list[BagPrediction]:
    """What a model says of each bag, one bag at a time."""
    predictions = []
    with evaluating(model):
        for bag in bags:
            batch = collate([bag])
            output = model(batch.features, batch.is_tile)
            maps = [each[0].double().mean(dim=(0, 1)) for each in output.attention]  # (N,)
            predictions.append(
                BagPrediction(output.logits[0].double().numpy(), tuple(m.numpy() for m in maps))
            )
    return predictions


def validate(model: nn.Module, bags: Bags, kind: ClassLoss) -> Validation:
    """What a model is worth on `bags`; ConfigError where its logits are not finite."""
    logits = np.stack([prediction.logits for prediction in predict_bags(model, bags)])
    broken = ~np.isfinite(logits).all(axis=1)
    if broken.any():
        raise ConfigError(
            f"the logits of {bags.slide_ids[broken.argmax()]} are not finite",
            hint="lower optim.lr or guidance.weight",
        )
    labels = np.array(bags.labels)
    loss = class_loss(torch.from_numpy(logits), torch.from_numpy(labels), kind).item()
    scores = asdict(diagnosis_scores(calibrated(logits, 1.0), labels))
    return Validation(logits, labels, scores | {"loss": loss})


def least_on_tissue(model: nn.Module, bags: Iterable[LabelledBag]) -> float | None:
    """The smallest share of attention on tissue over bags and magnifications, if any is known."""
    shares = [
        attention_scores(attention, tissue=tissue, heuristic=None).attention_on_tissue
        for bag in bags
        for prediction in predict_bags(model, [bag])
        for attention, tissue in zip(prediction.attention, bag.tissue_coverage, strict=True)
    ]
    return min((share for share in shares if share is not None), default=None)
