"""Settings of a training run, read from TOML into checked, frozen values."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sagdeploy.errors import ConfigError


class Strict(BaseModel):
    """A frozen value that refuses unknown keys; base of settings, manifest and records."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        defer_build=True,  # until it is used: a client needs no settings of training
    )


RECIPES = Path(__file__).with_name("recipes")
"""Settings of published experiments, as TOML."""

StrictType = TypeVar("StrictType", bound=Strict)
Share = Annotated[float, Field(ge=0, le=1)]
Guide = Literal["hg", "tg"]
Precision = Literal["fp32", "fp16", "int8"]
"""Of an extractor's arithmetic."""


class ModelSettings(Strict):
    """Which diagnosis model is trained."""

    name: str = "abmil"
    """`abmil`, `scatnet`, or `package.module:Class` of your own."""

    options: dict[str, str | int | float | bool] = {}
    """Keyword arguments of the model's constructor beside its sizes."""

    standardise: bool = False
    """Whether the model is given features of mean 0 and deviation 1 over the training tiles."""


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

    control: Literal["none", "shuffled", "uniform"] = "none"
    """`shuffled`: each slide gets another's HG. `uniform`: HG is the same on all its tiles.
    What attention or diagnosis gain by them, guidance does not gain by its meaning."""

    share: Share = 1.0
    """Share of the training slides with HG that keep it; the smaller is part of the larger."""

    compat: Literal["paper", "reference"] = "paper"
    """`paper`: the paper's equations. `reference`: the sums and factors of its public code."""

    @model_validator(mode="after")
    def _controls_hg(self) -> Self:
        if "hg" not in self.terms and (self.control != "none" or self.share < 1):
            raise ValueError("control and share are of HG, which is not among the terms")
        return self


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


def read_toml(path: Path, kind: type[StrictType], hint: str = "") -> StrictType:
    """Settings of `kind` from a TOML file; every wrong key is named in one ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error
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


def read_settings(config: Path | None) -> TrainSettings:
    """Training settings from a TOML file or a recipe of ours, or the defaults without either.

    config: a file, or the name of a recipe
    """
    if config is None:
        return TrainSettings()
    recipe = RECIPES / f"{config}.toml"
    if config.exists() or config.name != str(config) or not recipe.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
        return read_toml(config, TrainSettings, hint=f"pass a TOML file, or one of {known}")
    return read_toml(recipe, TrainSettings)


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
