"""What turns tiles into features: uint8 pixels in, scaling and all, so that nothing is left
for a client to get wrong.

Weights come from a file that cannot carry code: safetensors, or a PyTorch file of tensors
alone. Nothing is downloaded unless `imagenet` is asked for by name.
"""

import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.files import sha256_of
from sagdeploy.models import mobilenet, resnet, stain

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
"""Given in place of a file of weights, downloads torchvision's."""

IMAGENET_URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
"""The digits are the start of the file's SHA-256."""

NO_WEIGHTS = "none: a fixed bank of stain and texture filters"


@dataclass(frozen=True, slots=True)
class ExtractorFacts:
    """What an extractor is, for the card that goes with its features."""

    name: str

    features: int
    """E, the length of a tile's feature vector."""

    weights: str
    """Where the weights come from, in words."""

    tile_px: int | None = None
    """Side of the only tiles it takes; None where any size will do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a kind of extractor is built, and what its network expects of a pixel."""

    features: int
    build: Callable[[], nn.Module]

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken from red, green and blue, each 0 to 255."""

    spread: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides what is left."""

    first: str = ""
    """Name of the first convolution, which takes the division over."""

    learned: bool = True

    own_names: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Translates the names of weights in a file to ours."""


def _of_255(*values: float) -> tuple[float, float, float]:
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue


RECIPES = {
    "mobilenet_v2": Recipe(
        features=mobilenet.FEATURES,
        build=mobilenet.MobileNetV2,
        mean=_of_255(0.485, 0.456, 0.406),
        spread=_of_255(0.229, 0.224, 0.225),
        first="features.0.0",
    ),
    "mobilenet_v2_tf": Recipe(
        features=mobilenet.FEATURES,
        build=lambda: mobilenet.MobileNetV2(tensorflow=True),
        mean=_of_255(0.5, 0.5, 0.5),
        spread=_of_255(0.5, 0.5, 0.5),
        first="features.0.0",
    ),
    "resnet18_instancenorm": Recipe(
        features=resnet.FEATURES,
        build=resnet.ResNet18,
        spread=_of_255(1, 1, 1),
        first="conv1",
        own_names=resnet.own_names,
    ),
    "stain_texture": Recipe(features=stain.FEATURES, build=stain.StainTexture, learned=False),
}
"""Each extractor by its name."""


class Extractor(nn.Module):
    """Tiles as they are read in, features out. For inference only."""

    mean: Tensor

    def __init__(self, network: nn.Module, recipe: Recipe, card: ExtractorFacts) -> None:
        super().__init__()
        self.card = card
        self.network = network
        self.register_buffer("mean", torch.tensor(recipe.mean).reshape(1, 3, 1, 1))
        if recipe.first:
            first = network.get_submodule(recipe.first)
            assert isinstance(first, nn.Conv2d)
            first.weight.data /= torch.tensor(recipe.spread).reshape(1, 3, 1, 1)
        self.requires_grad_(False).eval()

    def forward(self, tiles: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, E).

        Bytes are transposed, not floats, and the first convolution has the division in it:
        together a third of what the plain way costs. The mean is taken off before that
        convolution pads, so that padding stays what the network learned it to be.
        """
        pixels = tiles.permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
        features: Tensor = self.network(pixels.to(torch.float32) - self.mean)
        return features


def build_extractor(
    name: str, weights: Path | None = None, *, seed: int | None = None
) -> Extractor:
    """The extractor of that name, ready for inference.

    weights: a .pt, .pth or .safetensors file, or `imagenet` to download torchvision's
    seed:    asks for random weights instead; for tests

    ConfigError for an unknown name or missing weights; ModelError for a file that is refused.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise ConfigError(f"no extractor {name!r}", hint=f"choose of {', '.join(RECIPES)}")
    if not recipe.learned:
        if weights is not None:
            raise ConfigError(f"{name} has no weights, yet {weights} was given")
        return Extractor(recipe.build(), recipe, ExtractorFacts(name, recipe.features, NO_WEIGHTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        network = recipe.build()
    if weights is None and seed is None:
        raise ConfigError(
            f"{name} needs a file of weights",
            hint="pass --weights FILE (.pt or .safetensors), or --extractor stain_texture",
        )
    text = f"random, seed {seed}: for tests only"
    if weights is not None:
        path = _downloaded(name) if str(weights) == IMAGENET else weights
        _load(network, recipe, path)
        text = f"{path.name} {sha256_of(path)[:12]}"
    return Extractor(network, recipe, ExtractorFacts(name, recipe.features, text))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a PyTorch file that holds nothing else.

    ConfigError where there is no such file; ModelError where it cannot be read or holds code.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            weights: object = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to open it all the same
        raise ModelError(
            f"{path}: not a file of weights alone: damaged, or holds more than tensors, which "
            "could run any code",
            hint="save the state_dict, best as .safetensors",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise ModelError(
            f"{path}: not a file of weights alone: {_first_line(error)}",
            hint="save the state_dict, best as .safetensors",
        ) from error
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ModelError(f"{path}: holds something other than tensors by name")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def _load(network: nn.Module, recipe: Recipe, path: Path) -> None:
    """Weights into the network, every one of them and no other."""
    weights = recipe.own_names(read_weights(path))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: not the weights of this network: {_first_line(error)}",
            hint="look at --extractor: names and shapes must be the network's own",
        ) from error
    if bad := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise ModelError(f"{path}: {bad[0]} is not finite", hint="copy the file again")


def _downloaded(name: str) -> Path:
    """torchvision's weights of a network, from the cache or the net."""
    if name != "mobilenet_v2":
        raise ConfigError(f"{name} has no weights to download", hint="pass --weights FILE")
    path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rpartition("/")[2]
    digits = path.stem.rpartition("-")[2]
    try:
        if not path.is_file():
            logger.info("downloading %s", IMAGENET_URL)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(path), digits, progress=False)
    except (URLError, OSError) as error:
        raise ConfigError(
            f"{IMAGENET_URL}: cannot be fetched: {_first_line(error)}",
            hint="fetch it on a machine that is online and pass it as --weights FILE",
        ) from error
    except RuntimeError as error:  # what torch.hub raises for a wrong hash
        raise ModelError(f"{IMAGENET_URL}: {_first_line(error)}") from error
    if not sha256_of(path).startswith(digits):
        raise ModelError(f"{path}: its hash does not begin with {digits}", hint="delete the file")
    return path


def _first_line(error: Exception) -> str:
    """What an error of another library says, in one line without its advice."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text[:200] or type(error).__name__
