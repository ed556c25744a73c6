"""The moving parts of training one seed, and how they are kept and taken up again.

All randomness of an epoch follows from the seed and the epoch's number alone: taking up a
stopped run needs no generator's state, and arms of one seed see the same bags in one order.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sagdeploy.config import OptimSettings, TrainSettings
from sagdeploy.errors import ModelError
from sagdeploy.models.registry import build_model
from sagdeploy.models.standardise import Standardised
from sagdeploy.training.adam import Adam, Group
from sagdeploy.training.dataset import Bags
from sagdeploy.training.loss import GuidedLoss
from sagdeploy.training.tensors import read_tensors, write_tensors

Row = dict[str, float | None]


@dataclass(slots=True, eq=False)
class TrainingState:
    """A seed between two epochs."""

    model: nn.Module
    loss: GuidedLoss
    """Holds the log-variances of Eq. 6, which are trained too."""

    optimizer: Adam
    last_step: tuple[str, ...] = ()
    """Slides of the batch that the weights were last moved by."""

    epoch: int = 0
    """Epochs done."""

    best_epoch: int = 0
    best_score: float = float("inf")
    """Of what chooses the epoch; lower is better."""

    best: dict[str, Tensor] = field(default_factory=dict)
    """The model's weights after that epoch."""

    rows: list[Row] = field(default_factory=list)
    """Metrics, one row an epoch."""


def new_state(settings: TrainSettings, bags: Bags, *, classes: int, seed: int) -> TrainingState:
    """A seed before its first epoch; its model is the same for every guidance."""
    with seeded(seed, epoch=0):
        model = build_model(
            settings.model.name,
            features=bags.extractor.features,
            classes=classes,
            magnifications=bags.magnifications,
            options=settings.model.options,
        )
    if settings.model.standardise:
        scaled = Standardised(model, features=bags.extractor.features)
        scaled.fit(lambda: (bag.features for bag in bags))
        model = scaled
    loss = GuidedLoss(settings.guidance, settings.class_loss)
    return TrainingState(model, loss, new_optimizer(model, loss, settings))


def new_optimizer(model: nn.Module, loss: GuidedLoss, settings: TrainSettings) -> Adam:
    """Adam in which the log-variances of Eq. 6 have a rate of their own and do not decay.

    The public code decays them at the network's rate: it pulls every term's weight to 1/2,
    whatever the term.
    """
    optim = settings.optim
    weights = [p for p in model.parameters() if p.requires_grad]
    log_variances = list(loss.parameters())
    if settings.guidance.compat == "reference":
        weights, log_variances = weights + log_variances, []
    groups = [Group(weights, optim.lr, optim.weight_decay)]
    if log_variances:
        groups.append(Group(log_variances, optim.uncertainty_lr, weight_decay=0.0))
    return Adam(groups, betas=optim.betas, eps=optim.eps)


@contextmanager
def seeded(seed: int, *, epoch: int) -> Iterator[None]:
    """Torch's global generator, which layers and dropout use, set inside the block only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def bag_order(bags: int, *, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch, counted from 1, sees the bags."""
    order: list[int] = np.random.default_rng([seed, epoch]).permutation(bags).tolist()
    return order


def lr_factor(optim: OptimSettings, epochs_done: int) -> float:
    """What the schedule makes of every learning rate in the next epoch."""
    if optim.schedule == "cosine":
        least = min(optim.min_lr / optim.lr, 1.0)
        wave = (1 + np.cos(np.pi * epochs_done / optim.epochs)) / 2
        return float(least + (1 - least) * wave)
    if optim.schedule == "step":
        return float(0.5 ** (epochs_done // optim.step_epochs))
    return 1.0


def save_state(path: Path, state: TrainingState) -> None:
    """Keep everything that the next epochs follow from, in one file, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"loss.{name}": tensor for name, tensor in state.loss.state_dict().items()}
    tensors |= {f"optimizer.{name}": t for name, t in state.optimizer.tensors().items()}
    progress = {
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "best_score": state.best_score,
        "rows": state.rows,
    }
    write_tensors(path, tensors, {"progress": json.dumps(progress)})


def restore_state(path: Path, state: TrainingState) -> None:
    """Go on where `save_state` left off; ModelError where the file is of another model."""
    tensors, metadata = read_tensors(path)
    try:
        progress = json.loads(metadata["progress"])
        state.model.load_state_dict(_part(tensors, "model"))
        state.loss.load_state_dict(_part(tensors, "loss"))
        saved = _part(tensors, "optimizer")
        for name, moment in state.optimizer.tensors().items():
            moment.copy_(saved[name])
        state.epoch, state.rows = progress["epoch"], progress["rows"]
        state.best_epoch, state.best_score = progress["best_epoch"], progress["best_score"]
        state.best = _part(tensors, "best")
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path}: not the state of this training", hint="delete it: the seed starts again"
        ) from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
