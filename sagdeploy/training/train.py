"""Train one seed: epochs over its bags, the best of them kept, resumable to the same bits."""

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch

from sagdeploy.config import TrainSettings
from sagdeploy.errors import ConfigError
from sagdeploy.files import sha256_of, write_bytes
from sagdeploy.training.batch import BagBatch, collate
from sagdeploy.training.calibration import calibrated, fit_temperature
from sagdeploy.training.checkpoint import (
    WEIGHTS_FILE,
    SeedResult,
    read_result,
    seed_folder,
    write_result,
)
from sagdeploy.training.dataset import Bags
from sagdeploy.training.inference import least_on_tissue, validate
from sagdeploy.training.loss import LossParts
from sagdeploy.training.metrics import Metrics, mean_of
from sagdeploy.training.state import (
    Row,
    TrainingState,
    bag_order,
    lr_factor,
    new_state,
    restore_state,
    save_state,
    seeded,
)
from sagdeploy.training.tensors import write_tensors
from sagdeploy.training.thresholds import fit_threshold

STATE_FILE = "state.safetensors"
METRICS_FILE = "metrics.csv"
SAVE_EVERY_S = 20.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochDone:
    """How far a seed is."""

    seed: int
    fold: int | None
    epoch: int
    """Counted from 1."""

    epochs: int
    loss: float


Progress = Callable[[EpochDone], None]


@dataclass(frozen=True, slots=True, eq=False)
class SeedTask:
    """One seed, or one fold of one seed, to be trained into a run's folder."""

    run: Path
    settings: TrainSettings
    classes: int
    train: Bags
    validation: Bags | None
    """Chooses the epoch and fits the temperature; None where neither is asked for."""

    seed: int
    fold: int | None = None
    held_out: tuple[str, ...] = ()
    save_every_s: float = SAVE_EVERY_S
    """Seconds after which an epoch's end is kept on disk."""

    @property
    def folder(self) -> Path:
        """Where the seed's files go."""
        return seed_folder(self.run, self.seed, self.fold)


def train_seed(task: SeedTask, progress: Progress = lambda done: None) -> SeedResult:
    """Train a seed to its end, from where it stopped; a seed that is done is not trained again.

    Raises ConfigError, naming the bags, where the loss is not finite.
    """
    done = read_result(task.folder)
    if done is not None:
        return done
    state = new_state(task.settings, task.train, classes=task.classes, seed=task.seed)
    path = task.folder / STATE_FILE
    if path.is_file():
        restore_state(path, state)
        logger.info("seed %d goes on after epoch %d", task.seed, state.epoch)
    saved = time.monotonic()
    while not _is_finished(state, task.settings):
        progress(train_epoch(state, task))
        if time.monotonic() - saved >= task.save_every_s:
            save_state(path, state)
            saved = time.monotonic()
    result = _finish(state, task)
    path.unlink(missing_ok=True)
    return result


def train_epoch(state: TrainingState, task: SeedTask) -> EpochDone:
    """One pass over the training bags and its validation; the state is that after it."""
    epoch, settings = state.epoch + 1, task.settings
    factor = lr_factor(settings.optim, state.epoch)
    with seeded(task.seed, epoch=epoch):
        parts = [
            _step(state, collate([task.train[i] for i in indices]), factor)
            for indices in _batches(len(task.train), settings.optim.bag_batch, task.seed, epoch)
        ]
    loss = float(np.mean([part.total.item() for part in parts]))
    row: Row = {"epoch": epoch, "lr": settings.optim.lr * factor, "loss": loss}
    row |= _parts(parts, settings)
    if task.validation is not None:
        scores = validate(state.model, task.validation, settings.class_loss).scores
        row |= {f"validation_{name}": scores[name] for name in ("loss", "accuracy", "auc")}
    state.epoch = epoch
    state.rows.append(row)
    _keep_if_better(state, row, settings)
    return EpochDone(task.seed, task.fold, epoch, settings.optim.epochs, loss)


def _batches(bags: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    order = bag_order(bags, seed=seed, epoch=epoch)
    return [order[start : start + size] for start in range(0, bags, size)]


def _step(state: TrainingState, batch: BagBatch, lr_factor: float) -> LossParts:
    """One step of the optimiser on one batch."""
    output = state.model(batch.features, batch.is_tile)
    parts: LossParts = state.loss(
        output,
        batch.targets,
        batch.is_tile,
        heuristic_guidance=batch.heuristic_guidance,
        tissue_guidance=batch.tissue_guidance,
    )
    if not math.isfinite(parts.total.item()):
        raise _diverged(state, batch)
    state.optimizer.zero_grad()
    torch.autograd.backward(parts.total)
    state.optimizer.step(lr_factor)
    state.last_step = batch.slide_ids
    return replace(parts, total=parts.total.detach())


def _diverged(state: TrainingState, batch: BagBatch) -> ConfigError:
    """The error of a loss that is not finite, naming the bags that are to blame."""
    hint = "lower optim.lr or guidance.weight, or look at the features of these bags"
    if all(weights.isfinite().all() for weights in state.model.state_dict().values()):
        return ConfigError(f"the loss is not finite on {', '.join(batch.slide_ids)}", hint=hint)
    last = ", ".join(state.last_step)
    return ConfigError(f"the weights are not finite after a step on {last}", hint=hint)


def _parts(parts: Sequence[LossParts], settings: TrainSettings) -> Row:
    """Means over the epoch's batches of what the loss is made of."""
    row: Row = {
        "classification": mean_of(part.classification.item() for part in parts),
        "hg": mean_of(None if part.hg is None else part.hg.item() for part in parts),
        "tg": mean_of(None if part.tg is None else part.tg.item() for part in parts),
    }
    weights = torch.stack([part.weights for part in parts]).mean(dim=0).tolist()
    names = ("classification", *settings.guidance.terms)[: len(weights)]  # one where weight is 0
    return row | {f"weight_{name}": w for name, w in zip(names, weights, strict=True)}


def _keep_if_better(state: TrainingState, row: Row, settings: TrainSettings) -> None:
    """Keep the epoch's weights if it is the best so far; of equal ones the first."""
    score: float | None = -float(state.epoch)
    if settings.select_by == "loss":
        score = row.get("validation_loss")
    elif settings.select_by == "auc":
        area = row.get("validation_auc")
        score = None if area is None else -area
    if score is None:
        raise ConfigError(
            f"no validation {settings.select_by} to choose the epoch by",
            hint='give both classes validation slides, or set select_by = "last"',
        )
    if score < state.best_score:
        state.best_score, state.best_epoch = score, state.epoch
        state.best = {k: t.detach().clone() for k, t in state.model.state_dict().items()}


def _is_finished(state: TrainingState, settings: TrainSettings) -> bool:
    waited = state.epoch - state.best_epoch
    gave_up = 0 < settings.patience <= waited and state.epoch > 0
    return gave_up or state.epoch >= settings.optim.epochs


def _finish(state: TrainingState, task: SeedTask) -> SeedResult:
    """Write the best epoch's weights and what they are worth on validation."""
    state.model.load_state_dict(state.best)
    scores: Metrics = {}
    temperature, threshold, on_tissue = 1.0, None, None
    if task.validation is not None:
        validation = validate(state.model, task.validation, task.settings.class_loss)
        temperature = fit_temperature(validation.logits, validation.labels)
        threshold = fit_threshold(calibrated(validation.logits, temperature), validation.labels)
        scores = validation.scores
        on_tissue = least_on_tissue(state.model, task.validation)
    write_tensors(task.folder / WEIGHTS_FILE, state.best)
    write_bytes(task.folder / METRICS_FILE, _table(state.rows).encode())
    result = SeedResult(
        seed=task.seed,
        fold=task.fold,
        epoch=state.best_epoch,
        epochs=state.epoch,
        validation={name: value for name, value in scores.items() if value is not None},
        temperature=temperature,
        threshold=threshold,
        least_on_tissue=on_tissue,
        held_out=task.held_out,
        weights_sha256=sha256_of(task.folder / WEIGHTS_FILE),
    )
    write_result(task.folder, result)
    return result


def _table(rows: Sequence[Row]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
