"""The record of a slide: what was found, on what it rests, or why there is nothing.

Every slide has exactly one. It holds no time, host, path or file name, so that the same slide
and model give the same bytes. Its JSON Schema is published as `schemas/prediction.schema.json`.
"""

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sagdeploy.config import Strict
from sagdeploy.files import canonical_json
from sagdeploy.pipeline.cautions import CautionCode
from sagdeploy.pipeline.outcome import Status
from sagdeploy.slides.metadata import MppSource
from sagdeploy.slides.tiling import TilePlan

TOP_TILES = 10
NUMBERS = (
    "slide", "tissue", "model", "parameters", "parameters_sha256", "engine", "prediction",
    "attention", "counts",
)  # fmt: skip
"""What only the record of a slide that is done has."""

Rounded = Annotated[float, AfterValidator(lambda value: float(f"{value:.9g}"))]
"""Nine significant digits: all that a float32 holds."""

RoundedShare = Annotated[
    float, Field(ge=0, le=1), AfterValidator(lambda value: float(f"{value:.9g}"))
]
Size = tuple[int, int]


class ErrorRecord(Strict):
    """Why a slide has no diagnosis."""

    code: int
    """The exit code that this slide alone would give."""

    message: str


class MppRecord(Strict):
    """Microns per pixel of level 0."""

    value: Rounded
    source: MppSource
    metadata: Rounded | None
    """What the slide's file says."""


class SlideRecord(Strict):
    """What is recorded of a slide's file: nothing that names a patient, a place or a person."""

    sha256: str
    size_bytes: int
    size_l0: Size
    bounds_l0: tuple[int, int, int, int]
    mpp: MppRecord
    vendor: str
    objective_power: Rounded | None
    levels: tuple[Size, ...]
    missing_share: RoundedShare
    """Of the level pixels that were read of the tiles: those that the file has no data for."""


class TissueRecord(Strict):
    """What was found of the slide's tissue."""

    share: RoundedShare
    """Of the slide."""

    threshold: Rounded
    """Colour from which on a pixel was tissue."""


class ParametersRecord(Strict):
    """All that could be chosen and changes a result, defaults spelled out."""

    mpp: Rounded | None
    """Forced microns per pixel; None where the slide's own count."""

    mpp_source: MppSource | None
    """Who forced it."""

    trust_mpp: bool

    @property
    def sha256(self) -> str:
        """Of the parameters as canonical JSON."""
        return digest(self)


class ModelRecord(Strict):
    """Which model answered."""

    name: str
    version: int
    network: str
    guidance: tuple[str, ...]
    classes: tuple[str, ...]
    plan: TilePlan
    extractor: str
    extractor_weights: str
    extractor_sha256: str
    diagnosis_sha256: str
    manifest_sha256: str
    """Of the manifest as canonical JSON: stands for all that is said of the model."""

    cohort_sha256: str
    """Of the cohort that it was trained on."""


class DiagnosisRecord(Strict):
    """What the model says of the slide."""

    label: str
    """The class with the highest probability."""

    probabilities: dict[str, RoundedShare]
    logits: dict[str, Rounded]
    """Before they are divided by the temperature."""

    margin: Rounded
    """Highest probability less the second."""

    temperature: Rounded
    calibrated: bool
    """Whether a temperature was fitted, on slides kept out of training."""


class TopTile(Strict):
    """One of the most attended tiles."""

    xy_l0: tuple[int, int]
    attention: Rounded
    percentile: Rounded


class AttentionRecord(Strict):
    """Where the model looked at one magnification."""

    mpp: Rounded
    tiles: int
    tile_size_l0: Size
    tile_size_px: Size
    sum: Rounded
    on_tissue: RoundedShare
    """Share of the attention on tissue, each tile's spread evenly over its area."""

    on_tissue_if_even: RoundedShare
    """The same if every tile had equal attention: what a map without knowledge reaches."""

    tiles_with_half: int
    """How few tiles hold half of the attention."""

    top_tiles: Annotated[tuple[TopTile, ...], Field(max_length=TOP_TILES)]
    """Of those above an even share, the most attended first; where none is, the first alone."""


class CautionRecord(Strict):
    """Why a diagnosis should be looked at twice."""

    code: CautionCode
    message: str


class PredictionRecord(Strict):
    """The one record of one slide."""

    schema_version: Literal[1] = 1
    slide_id: str
    status: Status
    error: ErrorRecord | None = None
    intended_use: Literal["research use only"] = "research use only"
    slide: SlideRecord | None = None
    tissue: TissueRecord | None = None
    model: ModelRecord | None = None
    parameters: ParametersRecord | None = None
    parameters_sha256: str | None = None
    engine: str | None = None
    """What ran the graphs, without its address or folder."""

    prediction: DiagnosisRecord | None = None
    attention: tuple[AttentionRecord, ...] | None = None
    """One a magnification."""

    counts: dict[str, int] | None = None
    """Tiles, by what became of them: `tiles` are those that were read."""

    warnings: tuple[CautionRecord, ...] = ()
    software: dict[str, str]
    artefacts: dict[str, str]
    """SHA-256 of the files beside the record, by name."""

    @model_validator(mode="after")
    def _done_or_not(self) -> Self:
        done = self.status == "done"
        if (self.error is None) != done:
            raise ValueError("a slide that is not done has an error, and only that")
        if any((getattr(self, name) is not None) != done for name in NUMBERS):
            raise ValueError("a slide that is done has all its numbers, any other has none")
        return self

    @property
    def sha256(self) -> str:
        """Of the record's file."""
        return digest(self)


def digest(model: Strict) -> str:
    """SHA-256 of a model as canonical JSON."""
    return hashlib.sha256(canonical_json(model.model_dump(mode="json")).encode()).hexdigest()


def record_schema() -> dict[str, Any]:
    """JSON Schema of the record, as it is published."""
    schema = PredictionRecord.model_json_schema(mode="serialization")
    null, not_null = {"type": "null"}, {"not": {"type": "null"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "if": {"properties": {"status": {"const": "done"}}},
        "then": {"properties": {"error": null} | dict.fromkeys(NUMBERS, not_null)},
        "else": {"properties": {"error": not_null} | dict.fromkeys(NUMBERS, null)},
    }
