"""Extractors: from tiles as bytes to features, their weights strictly from where they say."""

import pickle
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.files import sha256_of
from sagdeploy.models import mobilenet, resnet, stain

TORCHVISION_URL: Final = "https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth"

Rgb = tuple[float, float, float]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Kind:
    """One extractor that can be built by name."""

    build: Callable[[], nn.Module]
    """From normalised (N, 3, H, W) to (N, E)."""

    features: int
    mean: Rgb = (0.0, 0.0, 0.0)
    """Subtracted from RGB in 0 to 1 ..."""

    std: Rgb | None = (1.0, 1.0, 1.0)
    """... which is then divided by this; None for a network that takes bytes as they are."""

    renamed: Callable[[Weights], Weights] = dict
    """Weights of a file under the names of the network."""

    url: str | None = None
    """Where weights come from if none are given."""

    weightless: str | None = None
    """What to say of it where it takes no weights."""


KINDS: Final = {
    "mobilenet_v2": Kind(
        mobilenet.MobileNetV2,
        mobilenet.FEATURES,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        url=TORCHVISION_URL,
    ),
    "mobilenet_v2_tf": Kind(
        partial(mobilenet.MobileNetV2, same=True),
        mobilenet.FEATURES,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    "resnet18_instancenorm": Kind(
        resnet.ResNet18, resnet.FEATURES, renamed=resnet.torchvision_names
    ),
    "stain_texture": Kind(
        stain.StainTexture,
        stain.FEATURES,
        std=None,
        weightless="none: a fixed bank of stain and texture filters",
    ),
}
NAMES: Final = tuple(KINDS)


class Extractor(nn.Module):
    """Tiles as bytes, uint8 (N, H, W, 3), to float32 (N, E); scaling is inside."""

    mean: Tensor

    def __init__(self, name: str, network: nn.Module, *, weights: str) -> None:
        """weights: what is used, in words

        The network's first convolution takes over the scaling, so that it costs nothing.
        """
        super().__init__()
        kind = KINDS[name]
        if kind.std is not None:
            _absorb(network, kind.std)
        self.name = name
        self.network = network
        self.features = kind.features
        self.tile_px: int | None = None  # any size will do
        self.weights = weights
        self.register_buffer("mean", 255 * torch.tensor(kind.mean)[:, None, None])

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (N, E) of tiles (N, H, W, 3)."""
        image = tiles.permute(0, 3, 1, 2).contiguous().float()  # moved as bytes: (N, 3, H, W)
        features: Tensor = self.network(image - self.mean)
        return features


def _absorb(network: nn.Module, std: Rgb) -> None:
    """Let the first convolution take bytes, centred, for what was divided by `std`."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight /= 255 * torch.tensor(std)[:, None, None]


def build_extractor(name: str, weights: Path | None = None) -> Extractor:
    """The extractor of a name, ready to be exported: in evaluation mode, without gradients.

    weights: a .pt, .pth or .safetensors file of tensors
    Raises ConfigError for an unknown name or where weights are missing or needless, ModelError
    for weights that are not those of the network.
    """
    if name not in KINDS:
        raise ConfigError(f"no extractor is called {name!r}", hint=f"take {', '.join(NAMES)}")
    kind = KINDS[name]
    network = kind.build()
    if kind.weightless is None:
        said = _fill(network, kind, name, weights)
    elif weights is None:
        said = kind.weightless
    else:
        raise ConfigError(f"{name} takes no weights, got {weights}", hint="leave out --weights")
    return Extractor(name, network, weights=said).eval().requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a .pt, .pth or .safetensors file; no code in it is run.

    Raises ConfigError where there is no such file, ModelError where it holds anything else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="pass --weights FILE")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(
            f"{path}: weights are read from .pt, .pth and .safetensors", hint="convert the file"
        )
    try:
        found = read(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors, or is damaged; a pickle can run any code, so it is "
            "not opened",
            hint="save its state_dict() as .safetensors",
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {_line(error)}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(item, Tensor) for item in found.values()
    ):
        raise ModelError(f"{path}: not a table of tensors by name", hint="save its state_dict()")
    return dict(found)


def _unpickled(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: Final[Mapping[str, Callable[[Path], object]]] = {
    ".safetensors": load_file,
    ".pt": _unpickled,
    ".pth": _unpickled,
}


def _fill(network: nn.Module, kind: Kind, name: str, weights: Path | None) -> str:
    """Load the weights into the network, every one; returns what they are in words."""
    path = weights or _downloaded(kind, name)
    tensors = kind.renamed(read_weights(path))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: not the weights of {name}: {_line(error)}",
            hint="choose the --extractor whose weights they are",
        ) from error
    if bad := [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(f"{path}: {bad[0]} is not finite", hint="copy the file again")
    digest = f"sha256 {sha256_of(path)[:12]}"
    return f"{path.name}, {digest}" if weights else f"torchvision IMAGENET1K_V1, {digest}"


def _downloaded(kind: Kind, name: str) -> Path:
    """The file of the kind's public weights, from torch's cache or the network."""
    if kind.url is None:
        raise ConfigError(f"{name} needs weights", hint="pass --weights FILE")
    try:
        with redirect_stdout(sys.stderr):  # where torch says what it downloads
            torch.hub.load_state_dict_from_url(
                kind.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{name}: its weights cannot be fetched from {kind.url}: {_line(error)}",
            hint="pass --weights FILE",
        ) from error
    return Path(torch.hub.get_dir(), "checkpoints", kind.url.rpartition("/")[2])


def _line(error: BaseException) -> str:
    """The first lines of an error as one, cut to what a screen shows."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
