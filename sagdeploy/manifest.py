"""The contract between training and serving, carried inside the model repository.

`export` writes it into the ensemble's `config.pbtxt`, one entry a version; a client reads
it from there, through a server or from the folder, and needs nothing else.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from sagdeploy.config import Precision, Strict, problems
from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.slides.tiling import TilePlan

PARAMETER = "sagdeploy_manifest_{version}"
"""Name of the ensemble's parameter that holds the manifest of one version."""

TensorKind = Literal["tiles", "features", "attention", "attention_heads"]


class ExtractorCard(Strict):
    """What turns a tile into features, and where its weights come from."""

    name: str
    features: Annotated[int, Field(ge=1)]
    """E, the length of a tile's feature vector."""

    weights: str
    """Where the weights come from, in words: a file's name and hash, or what stands in."""

    sha256: str
    """Of the ONNX file, which starts at uint8 (N, H, W, 3); empty where it is not known."""

    tile_px: Annotated[int, Field(ge=1)] | None = None
    """Side of the only tiles it takes; None where any size will do."""

    parity: tuple[float, ...] = ()
    """Largest differences from PyTorch, as in Parity; empty where it came as ONNX."""

    precision: Precision = "fp32"
    """Of its arithmetic; features are float32 in any."""


class ModelCard(Strict):
    """Where the diagnosis model comes from."""

    model: str
    guidance: tuple[str, ...]
    hg_heads: Annotated[int, Field(ge=0)] = 0
    """How many heads of each layer, the first, HG taught; 0 where it taught none."""

    seed: int
    epoch: int
    cohort_sha256: str
    slides: dict[str, int]
    """Slides per split."""

    validation: dict[str, float]
    """Metrics on the validation split, on which the epoch was chosen."""


class Parity(Strict):
    """Largest difference between PyTorch and ONNX Runtime, by bag size.

    Absolute where values are below one, relative to the largest of them above.
    """

    tiles: tuple[int, ...]
    extractor: tuple[float, ...]
    """Of a few tiles of each bag; empty where the extractor came as ONNX, with no PyTorch."""

    diagnosis: tuple[float, ...]


class Margin(Strict):
    """What it changes on the validation slides that the extractor is not in float32."""

    slides: Annotated[int, Field(ge=1)]
    tiles: int
    feature_cosine: float
    """Of a tile's two features, their mean over other slides taken off: mean over the tiles."""

    attention_rank: float
    """Spearman's correlation of a slide's two attentions: mean over slides and magnifications."""

    probability_difference: float
    """The largest, over slides and classes."""

    auc_difference: float | None
    """What float32's AUC becomes more, or less; None where the slides are of one class."""


class CorePace(Strict):
    """How the extractor was fastest on the cores of the machine that exported it."""

    batch_tiles: Annotated[int, Field(ge=1)]
    """In one run."""

    threads: Annotated[int, Field(ge=0, le=1)]
    """Of one run: 1, and as many runs at once as cores; 0 for all, and one run at a time."""


class ManifestDraft(Strict):
    """What `export` knows of a model before it is published."""

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """In the order of the probabilities."""

    plan: TilePlan
    extractor: ExtractorCard
    heads: Annotated[int, Field(ge=1)] = 1
    layers: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits inside the graph; fitted on validation."""

    attention_on_tissue_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Less of a slide's attention on tissue than this was not seen on validation: a warning.
    None where it is not known."""

    pace: CorePace | None = None
    """For whoever runs the graphs in process, on cores; None where it was not measured."""

    card: ModelCard
    parity: Parity
    margin: Margin | None = None
    """None for an extractor in float32, in which training saw the features."""

    software: dict[str, str]
    intended_use: str = "research use only"

    @property
    def magnifications(self) -> int:
        """S, how many magnifications a slide is read at."""
        return len(self.plan.mpp)

    def tensors(self, kind: TensorKind) -> tuple[str, ...]:
        """Names of a kind of tensor in the graphs: `tiles`, or `tiles_0`, `tiles_1`, ..."""
        return tensor_names(kind, self.magnifications)


class Manifest(ManifestDraft):
    """Everything a client must know of one version of a model."""

    schema_version: Literal[1] = 1
    version: Annotated[int, Field(ge=1)]
    diagnosis_sha256: str


def tensor_names(kind: TensorKind, magnifications: int) -> tuple[str, ...]:
    """Names of a kind of tensor in the graphs, one a magnification."""
    if magnifications == 1:
        return (kind,)
    return tuple(f"{kind}_{index}" for index in range(magnifications))


def extractor_name(model: str) -> str:
    """Name of the extractor of an ensemble in the repository."""
    return f"{model}_extractor"


def diagnosis_name(model: str) -> str:
    """Name of the diagnosis network of an ensemble in the repository."""
    return f"{model}_diagnosis"


def parse_manifest(text: str, where: str, *, place: str = "") -> Manifest:
    """The manifest in `text`; ModelError names `where` it was found and what is wrong.

    place: a path or an address, which errors tell the terminal alone
    """
    try:
        return Manifest.model_validate_json(text)
    except (ValidationError, ConfigError) as error:
        problem = problems(error) if isinstance(error, ValidationError) else error
        raise ModelError(
            f"{where}: the manifest is not one this sagdeploy reads: {problem}",
            hint="export the model again, or update sagdeploy",
            place=place,
        ) from error
