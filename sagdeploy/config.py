"""Settings of a training run, read from TOML into checked, frozen values."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sagdeploy.errors import ConfigError


class Strict(BaseModel):
    """A frozen value that refuses unknown keys; base of settings, manifest and records."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


StrictType = TypeVar("StrictType", bound=Strict)
Share = Annotated[float, Field(ge=0, le=1)]
Guide = Literal["hg", "tg"]


class ModelSettings(Strict):
    """Which diagnosis model is trained."""

    name: str = "abmil"
    """`abmil`, `scatnet`, or `package.module:Class` of your own."""

    options: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the model's constructor beside its sizes."""


class GuidanceSettings(Strict):
    """Which guidance teaches the attention, and how strongly (section 2.4 of the paper)."""

    terms: tuple[Guide, ...] = ()
    """`hg` (heuristic guidance, Eq. 4), `tg` (tissue guidance, Eq. 5); empty for a baseline."""

    hg_heads: Share = 0.5
    """Share of the heads of each layer that HG teaches; at least one head."""

    tg_heads: Share = 1.0
    """Share of the heads of each layer that TG teaches."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor on every guidance term; 0 trains the baseline bit for bit."""

    weighting: Literal["uncertainty", "equal"] = "uncertainty"
    """How the terms are joined: uncertainty weighting (Eq. 6) or their plain sum."""

    compat: Literal["paper", "reference"] = "paper"
    """`paper`: the paper's equations. `reference`: the sums and factors of its public code."""


class OptimSettings(Strict):
    """Optimiser and schedule."""

    epochs: Annotated[int, Field(ge=1)] = 200
    lr: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Share, Share] = (0.5, 0.9)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 5e-3
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    min_lr: Annotated[float, Field(ge=0)] = 5e-6
    """Where the cosine ends."""

    step_epochs: Annotated[int, Field(ge=1)] = 66
    """Epochs between two halvings of the step schedule."""

    bag_batch: Annotated[int, Field(ge=1)] = 1
    """Bags per optimiser step, padded to the longest."""

    uncertainty_lr: Annotated[float, Field(gt=0)] = 1e-2
    """Learning rate of the log-variances of Eq. 6, which are kept out of weight decay."""


class TrainSettings(Strict):
    """Everything that decides a training run beside its data and seed."""

    model: ModelSettings = ModelSettings()
    guidance: GuidanceSettings = GuidanceSettings()
    optim: OptimSettings = OptimSettings()
    class_loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """`bce` is the public code's independent sigmoids."""

    select_by: Literal["loss", "auc", "last"] = "loss"
    """What chooses the epoch that is kept, on the validation split; never the test split."""

    patience: Annotated[int, Field(ge=0)] = 0
    """Epochs without a better one before training stops; 0 trains them all."""

    validation_share: Share = 0.2
    """Share of the training patients held out when the cohort names no `val` split."""


def read_toml(path: Path, kind: type[StrictType]) -> StrictType:
    """Settings of `kind` from a TOML file; every wrong key is named in one ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {problems(error)}") from error


def problems(error: ValidationError) -> str:
    """What pydantic found, in one line: `model.name: Field required; ...`."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg']}"
        for item in error.errors()
    )


def read_settings(path: Path | None) -> TrainSettings:
    """Training settings from a TOML file, or the defaults without one."""
    return read_toml(path, TrainSettings) if path else TrainSettings()


def override(
    settings: TrainSettings,
    *,
    model: str | None = None,
    guidance: str | None = None,
    epochs: int | None = None,
) -> TrainSettings:
    """Settings with what the command line says in their place.

    guidance: `none`, or terms with commas between: `hg,tg`
    """
    values = settings.model_dump()
    if model is not None:
        values["model"]["name"] = model
    if guidance is not None:
        values["guidance"]["terms"] = () if guidance == "none" else guidance.split(",")
    if epochs is not None:
        values["optim"]["epochs"] = epochs
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"settings: {problems(error)}") from error
