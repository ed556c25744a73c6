"""Where graphs run: one protocol for a Triton server and for ONNX Runtime in process."""

import threading
from collections.abc import Callable, Mapping, Sequence
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

    heads: tuple[NDArray[np.float32], ...] = ()
    """One (L*H, N) a magnification, whose mean is the attention; none where L*H is 1."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an engine is asked where it is to be at its fastest."""

    batch_tiles: int
    """In a request, of tiles of a usual size."""

    in_flight: int
    """Requests under way at once, while the tiles of the next ones are read; 0 where the engine
    computes on the cores that read, so that each core had better do one after the other."""


ON_CORES = Pace(batch_tiles=8, in_flight=0)
"""Of an engine in this process: more tiles fall out of the cores' caches, and take memory."""


class Engine(Protocol):
    """Runs named graphs. Safe to use from several threads at once.

    Pickled, it is where its graphs are and what they were; unpickled in another process, it
    opens them there, once while they stay the same.
    """

    @property
    def name(self) -> str:
        """What runs, without its place, for records: `Triton 2.51.0`."""
        ...

    @property
    def description(self) -> str:
        """The name, and where that is, for people: `Triton 2.51.0 at localhost:8000`."""
        ...

    def pace(self, model: str, version: int | None = None) -> Pace:
        """How tiles are best streamed through a model's extractor; it may be named itself."""
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


_arrived: dict[tuple[Callable[..., Engine], object], tuple[tuple[object, ...], Engine]] = {}
_arriving = threading.Lock()


def arrived(kind: Callable[..., Engine], where: object, *content: object) -> Engine:
    """The engine that was sent to this process, kept until one with other content is sent.

    content: by which files at the same place are told apart; what `kind` takes after `where`
    """
    with _arriving:
        kept = _arrived.get((kind, where))
        if kept is None or kept[0] != content:
            kept = _arrived[kind, where] = content, kind(where, *content)
        return kept[1]


def check_diagnosis(outputs: Arrays, manifest: Manifest, tiles: Sequence[int]) -> Diagnosis:
    """A Diagnosis from raw outputs; EngineError where they cannot be one.

    tiles: how many tiles the bag has at each magnification
    """
    classes, maps = len(manifest.classes), manifest.layers * manifest.heads
    probabilities = _checked(outputs, "probabilities", (classes,))
    logits = _checked(outputs, "logits", (classes,))
    attention = tuple(
        _checked(outputs, name, (count,))
        for name, count in zip(manifest.tensors("attention"), tiles, strict=True)
    )
    heads = tuple(
        _checked(outputs, name, (maps, count))
        for name, count in zip(manifest.tensors("attention_heads"), tiles, strict=True)
        if maps > 1
    )
    shares = [("probabilities", probabilities), *(("attention", each) for each in attention)]
    for name, values in [*shares, *(("heads' attention", each) for each in heads)]:
        sums = values.sum(axis=-1, dtype=np.float64)
        if (values < 0).any() or (abs(sums - 1) > SUM_TOLERANCE).any():
            raise EngineError(f"{manifest.name}: the {name} do not sum to one")
    return Diagnosis(probabilities, logits, attention, heads)


def _checked(outputs: Arrays, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name not in outputs:
        raise EngineError(f"the answer lacks the output {name!r}")
    values = outputs[name]
    if values.shape != shape or values.dtype != np.float32:
        raise EngineError(
            f"output {name!r} is {values.dtype} {list(values.shape)}, not float32 {list(shape)}"
        )
    if not np.isfinite(values).all():
        raise EngineError(f"output {name!r} holds values that are not finite")
    return values
