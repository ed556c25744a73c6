"""From PyTorch, or a float ONNX extractor, to graphs that every supported Triton loads."""

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from sagdeploy.errors import ExportError
from sagdeploy.export.attention import with_attention
from sagdeploy.export.pooling import with_pooling
from sagdeploy.files import write_bytes
from sagdeploy.manifest import tensor_names
from sagdeploy.models.attention import ModelOutput
from sagdeploy.serving.runtime import PROBE_PX, Graph, load_graph

OPSET = 18
IR_VERSION = 10
"""Newest that the ONNX Runtime of every supported Triton reads: 1.19, in release 24.10."""

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes of the largest file that ONNX, being one protobuf message, can be."""

_NOISE = logging.getLogger("torch.onnx._internal.exporter._registration")


class DiagnosisGraph(nn.Module):
    """What is served of a diagnosis model: one bag in, everything a client is told out."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Probabilities (C,), logits (C,), attention (N,) each and, if several, maps (L*H, N).

        features: one (N, E) a magnification
        """
        bags = [bag[None] for bag in features]  # (1, N, E)
        is_tile = [bag.new_ones(bag.shape[:2], dtype=torch.bool) for bag in bags]
        output = self.model(bags, is_tile)
        logits = output.logits[0]  # (C,)
        maps = [attention[0].flatten(0, 1) for attention in output.attention]  # (L*H, N)
        heads = maps if maps[0].shape[0] > 1 else []
        probabilities = torch.softmax(logits / self.temperature, dim=-1)
        return (probabilities, logits, *(each.mean(0) for each in maps), *heads)


def export_extractor(extractor: nn.Module, path: Path, *, tile_px: int | None) -> Path:
    """Write an extractor from uint8 (N, H, W, 3) to float32 (N, E) as one ONNX file.

    tile_px: side of the only tiles it takes; None where any size will do
    """
    side = tile_px or PROBE_PX
    dynamic = {0: "N"} if tile_px else {0: "N", 1: "H", 2: "W"}
    tiles = torch.zeros(3, side, side if tile_px else side + 32, 3, dtype=torch.uint8)
    _export(extractor, path, inputs={"tiles": (tiles, dynamic)}, outputs=["features"])
    return path


def export_diagnosis(
    model: nn.Module, path: Path, *, magnifications: int, features: int, temperature: float = 1.0
) -> Path:
    """Write a diagnosis model as one ONNX file that takes any number of tiles.

    features:    E
    temperature: divides the logits on the way to the probabilities
    """
    names = tensor_names("features", magnifications)
    inputs = {
        name: (torch.zeros(tiles, features), {0: f"N_{index}"})
        for index, (name, tiles) in enumerate(zip(names, _sizes(magnifications), strict=True))
    }
    maps = attention_maps(model, magnifications=magnifications, features=features)
    outputs = [
        "probabilities",
        "logits",
        *tensor_names("attention", magnifications),
        *(tensor_names("attention_heads", magnifications) if maps.count > 1 else ()),
    ]
    _export(DiagnosisGraph(model, temperature), path, inputs=inputs, outputs=outputs)
    return path


@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """How many attention maps a model makes at a magnification."""

    layers: int
    heads: int

    @property
    def count(self) -> int:
        """L*H."""
        return self.layers * self.heads


def attention_maps(model: nn.Module, *, magnifications: int, features: int) -> AttentionMaps:
    """What a model makes of a small bag, for it need not say how many maps it has."""
    bags = [torch.zeros(1, tiles, features) for tiles in _sizes(magnifications)]
    is_tile = [torch.ones(bag.shape[:2], dtype=torch.bool) for bag in bags]
    with torch.inference_mode():
        output: ModelOutput = on_cpu(model)(bags, is_tile)
    layers, heads = output.attention[0].shape[1:3]
    return AttentionMaps(layers, heads)


def _sizes(magnifications: int) -> range:
    """Tiles of an example bag, another number at each magnification."""
    return range(7, 7 + 4 * magnifications, 4)


def on_cpu(module: nn.Module) -> nn.Module:
    """A copy to export or compare with: on the CPU, in evaluation mode, without gradients."""
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


def save_graph(model: onnx.ModelProto, path: Path) -> Graph:
    """Write a graph for every supported Triton, and load it again as a client would.

    Left out is what PyTorch notes of each node: paths and lines of the training machine's
    sources, which are nobody's business and differ from machine to machine.
    """
    model.ir_version = IR_VERSION
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise ExportError(
            f"{path}: the graph takes {model.ByteSize():,} bytes, more than a file of 2 GiB",
            hint="choose a smaller extractor",
        )
    write_bytes(path, model.SerializeToString(deterministic=True))
    return load_graph(path)


Input = tuple[Tensor, dict[int, str]]
"""An example of an input, and the names of those of its dimensions that may have any length."""


def _export(
    module: nn.Module, path: Path, *, inputs: dict[str, Input], outputs: Sequence[str]
) -> None:
    traced = _traced(on_cpu(module), list(inputs.values()), list(inputs), outputs)
    model = with_pooling(with_attention(traced))
    _name_dims(model.graph, [dims for _, dims in inputs.values()])
    graph = save_graph(model, path)
    for tensor, (_, dims) in zip(graph.inputs, inputs.values(), strict=True):
        if any(tensor.dims[axis] != -1 for axis in dims):
            raise ExportError(
                f"{path}: the trace fixes the size of input {tensor}",
                hint="in the model's forward take sizes from tensor.shape, never by len() or int()",
            )


def _traced(
    module: nn.Module, inputs: list[Input], names: list[str], outputs: Sequence[str]
) -> Any:
    shapes: tuple[Any, ...] = tuple({axis: Dim.DYNAMIC for axis in dims} for _, dims in inputs)
    if isinstance(module, DiagnosisGraph):
        shapes = (shapes,)  # its inputs are one variadic argument
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                tuple(tensor for tensor, _ in inputs),
                input_names=names,
                output_names=list(outputs),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(
            f"{type(module).__name__}: PyTorch cannot export it: {reason}",
            hint="does its forward branch on sizes or values?",
        ) from error
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which torch does not tell of its own internals, which nobody here can mend."""
    level = _NOISE.level
    _NOISE.setLevel(logging.ERROR)  # "torchvision is not installed", for each of its operators
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch 2.13, on itself
        try:
            yield
        finally:
            _NOISE.setLevel(level)


def _name_dims(graph: onnx.GraphProto, names: list[dict[int, str]]) -> None:
    """Call the open dimensions N, H and W where PyTorch calls them s77."""
    called = {}
    for value, dims in zip(graph.input, names, strict=True):
        for axis, name in dims.items():
            called[value.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = called.get(dim.dim_param, dim.dim_param)
