"""Where graphs run: one protocol for a Triton server and for ONNX Runtime in process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import EngineError
from sagdeploy.manifest import Manifest

Arrays = Mapping[str, NDArray[Any]]
REQUEST_TILES = 256
REQUEST_BYTES = 48 << 20
"""Most in one request, tiles and bytes of them: below the 64 MiB that Triton takes by default."""
SUM_TOLERANCE = 1e-3
"""How far probabilities and attention may sum from one: float32 over 100,000 tiles."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A slide's diagnosis, checked."""

    probabilities: NDArray[np.float32]
    """(C,) in the manifest's order of classes."""

    logits: NDArray[np.float32]
    """(C,) before calibration."""

    attention: tuple[NDArray[np.float32], ...]
    """One (N,) a magnification, in the order of the tiles; sums to 1."""


class Engine(Protocol):
    """Runs named graphs. Safe to use from several threads at once."""

    @property
    def description(self) -> str:
        """What runs where, for people: `Triton 2.51.0 at localhost:8000`."""
        ...

    def ensemble_tiles(self, model: str) -> int:
        """Largest bag that is best asked of the ensemble at once; 0 to stream any."""
        ...

    def models(self) -> tuple[str, ...]:
        """Names of the models that carry a manifest of ours."""
        ...

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        """Manifest of a model's version, or of its latest; ModelError if there is none."""
        ...

    def is_ready(self, model: str) -> bool:
        """Whether the model can be asked now."""
        ...

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        """All outputs of a model for `inputs`, by name; EngineError or ModelError if refused."""
        ...

    def close(self) -> None:
        """Give back connections and sessions."""
        ...


def check_diagnosis(outputs: Arrays, manifest: Manifest, tiles: Sequence[int]) -> Diagnosis:
    """A Diagnosis from raw outputs; EngineError where they cannot be one.

    tiles: how many tiles the bag has at each magnification
    """
    probabilities = _checked(outputs, "probabilities", len(manifest.classes))
    logits = _checked(outputs, "logits", len(manifest.classes))
    attention = tuple(
        _checked(outputs, name, count)
        for name, count in zip(manifest.tensors("attention"), tiles, strict=True)
    )
    for name, values in [("probabilities", probabilities), *(("attention", a) for a in attention)]:
        if (values < 0).any() or abs(float(values.sum(dtype=np.float64)) - 1) > SUM_TOLERANCE:
            raise EngineError(f"{manifest.name}: the {name} do not sum to one")
    return Diagnosis(probabilities, logits, attention)


def _checked(outputs: Arrays, name: str, length: int) -> NDArray[np.float32]:
    if name not in outputs:
        raise EngineError(f"the answer lacks the output {name!r}")
    values = outputs[name]
    if values.shape != (length,) or values.dtype != np.float32:
        raise EngineError(
            f"output {name!r} is {values.dtype} {list(values.shape)}, not float32 [{length}]"
        )
    if not np.isfinite(values).all():
        raise EngineError(f"output {name!r} holds values that are not finite")
    return values
