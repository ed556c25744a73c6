"""Tensors in safetensors files, which hold no code: pickles are refused, and never opened."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sagdeploy.errors import ModelError
from sagdeploy.files import write_bytes

CODE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar"})
CODE_STARTS = (b"\x80", b"PK")
"""First bytes of a pickle, and of the zip archive that torch.save puts around one."""

TRAIN_AGAIN = "train again, or take the run from its backup"

Tensors = dict[str, Tensor]


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with the weights of a file that has exactly its names and shapes."""
    tensors, _ = read_tensors(path)
    own = model.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [
        name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise ModelError(
            f"{path}: not weights of this model: {len(wrong)} tensors are missing, unknown or of "
            f"another shape, such as {wrong[0]}",
            hint=TRAIN_AGAIN,
        )
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(f"{path}: {bad[0]} is not finite", hint=TRAIN_AGAIN)
    model.load_state_dict(tensors)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and texts as one safetensors file, whole or not at all."""
    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(own, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Tensors and texts of a safetensors file; ModelError for anything else, pickles first."""
    if path.suffix.lower() in CODE_SUFFIXES:
        raise _pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error}", hint=TRAIN_AGAIN) from error
    except (SafetensorError, ValueError) as error:
        if path.read_bytes()[:4].startswith(CODE_STARTS):
            raise _pickle(path) from error
        raise ModelError(f"{path}: not a safetensors file: {error}", hint=TRAIN_AGAIN) from error


def _pickle(path: Path) -> ModelError:
    return ModelError(
        f"{path}: a pickle can run any code when it is opened, so it is refused",
        hint="pass weights as .safetensors",
    )
