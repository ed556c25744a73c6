"""One ONNX graph in ONNX Runtime, whose errors become ours here."""

import hashlib
import logging
import re
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.manifest import ExtractorCard
from sagdeploy.serving.engine import Arrays
from sagdeploy.serving.model_config import Tensor

log = logging.getLogger(__name__)

VERSION: str = ort.__version__

PROBE_PX = 224
"""Side of the tile that a graph is tried on where any size will do."""

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_NOTHING = (
    b'\x08\x08:9\n\x12\n\x01x\x12\x01y"\x08Identity:\x00\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""A graph that hands its input on, to try a provider with."""

_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
_NVIDIA = Path("/dev/nvidiactl")
_FATAL = 4  # ONNX Runtime writes to stderr what it also raises; only the exception is wanted
_TYPES = {"float": "float32", "double": "float64"}
_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


class Graph:
    """One ONNX graph, loaded."""

    def __init__(self, session: ort.InferenceSession, *, name: str, sha256: str) -> None:
        self._session = session
        self.name = name
        self.sha256 = sha256
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())

    def run(self, inputs: Arrays) -> Arrays:
        """All outputs by name; EngineError where the graph cannot take `inputs`."""
        names = [tensor.name for tensor in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except _FAILURES as error:
            message = f"ONNX Runtime failed: {_line(error)}"
            raise EngineError(message, place=self.name) from error


def load_graph(path: Path, *, threads: int = 1, sha256: str | None = None) -> Graph:
    """The graph of an ONNX file that keeps nothing in other files.

    threads: that one run may use; 0 for all cores
    sha256:  of the file, where it is known; ModelError if it is another
    """
    name, place = _named(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}", place=place) from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, found):
        raise ModelError(
            f"{name} is not the file that was published: its SHA-256 differs",
            place=place,
            hint="copy the repository again, or export the model again",
        )
    ort.set_default_logger_severity(_FATAL)
    try:
        return Graph(_session(data, threads, providers()), name=str(path), sha256=found)
    except _FAILURES as error:
        reason = _line(error)
        raise ModelError(f"{name} is refused by ONNX Runtime: {reason}", place=place) from error


def _named(path: Path) -> tuple[str, str]:
    """A graph's name, MODEL/VERSION/model.onnx in a repository, and the place where that is."""
    folder = path.parents[2] if path.parent.name.isdecimal() else path.parent
    return str(path.relative_to(folder)), str(folder)


@cache
def providers() -> tuple[str, ...]:
    """What ONNX Runtime computes on, best first: CUDA where it works, and the CPU.

    Whether it works is tried: without its libraries ONNX Runtime takes the CPU and says nothing.
    Not TensorRT: it builds its engine anew when a batch is larger than all before it.
    """
    if CUDA not in ort.get_available_providers() or not _NVIDIA.exists():
        return (CPU,)
    found = tuple(_session(_NOTHING, 1, (CUDA, CPU)).get_providers())
    if CUDA not in found:
        log.warning("a GPU is there, but not what ONNX Runtime needs of CUDA and cuDNN for it")
    return found


def extractor_card(path: Path, *, name: str, weights: str) -> ExtractorCard:
    """Card of an extractor's file, its length of features found by running it.

    Raises ModelError unless it turns `tiles` uint8 (N, H, W, 3) into `features` float32 (N, E).
    """
    graph = load_graph(path)
    form = [(t.name, t.dtype, len(t.dims)) for t in (*graph.inputs, *graph.outputs)]
    if form != [("tiles", "uint8", 4), ("features", "float32", 2)]:
        raise ModelError(
            f"{path.name} is not an extractor from tiles uint8 [N, H, W, 3] to features [N, E]",
            place=str(path.parent),
            hint="let `sagdeploy export` put the preprocessing in front of it",
        )
    side = max(graph.inputs[0].dims[1], 0) or None
    probe = np.zeros((2, side or PROBE_PX, side or PROBE_PX, 3), np.uint8)
    features = graph.run({"tiles": probe})["features"]
    return ExtractorCard(
        name=name,
        features=features.shape[1],
        weights=weights,
        sha256=graph.sha256,
        tile_px=side,
    )


def _session(data: bytes, threads: int, on: tuple[str, ...]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A graph from memory has no folder of its own; this one keeps it from reading in any other.
    options.add_session_config_entry(_EXTERNAL_DATA, "/nonexistent")
    try:
        return ort.InferenceSession(data, options, providers=list(on), enable_fallback=0)
    except _FAILURES:
        if len(on) == 1:
            raise
        return _session(data, threads, on[-1:])


def _tensor(node: ort.NodeArg) -> Tensor:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape)
    return Tensor(node.name, _TYPES.get(kind, kind), dims)


def _line(error: BaseException) -> str:
    """What ONNX Runtime says, without its code and the lines of its own sources."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:300]
