"""Whether the exported graphs say what PyTorch says, in figures that go into the manifest."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import DiagnosisGraph, on_cpu
from sagdeploy.serving.runtime import PROBE_PX, Graph, load_graph

BAG_TILES = (1, 7, 500)
"""Sizes of the bags that are compared."""

EXTRACTOR_TILES = 8
"""Most tiles of a bag that the extractor is compared on; tiles know nothing of each other."""

TOLERANCE = 1e-4

Array = NDArray[np.float32] | NDArray[np.uint8]


def diagnosis_parity(model: nn.Module, onnx: Path, temperature: float = 1.0) -> tuple[float, ...]:
    """Largest difference on each seeded bag; ExportError where one is above TOLERANCE."""
    graph = load_graph(onnx, threads=0)
    return _refused_above("diagnosis", _of_diagnosis(DiagnosisGraph(model, temperature), graph))


def extractor_parity(extractor: nn.Module, onnx: Path) -> tuple[float, ...]:
    """Largest difference on each seeded bag; ExportError where one is above TOLERANCE."""
    return _refused_above("extractor", _of_extractor(extractor, load_graph(onnx)))


def _refused_above(part: str, differences: tuple[float, ...]) -> tuple[float, ...]:
    for tiles, figure in zip(BAG_TILES, differences, strict=True):
        if not figure <= TOLERANCE:  # so that NaN is refused, too
            raise ExportError(
                f"{part}: ONNX Runtime differs from PyTorch by {figure:.1e} on a bag of "
                f"{tiles}, more than {TOLERANCE:.0e}",
                hint="does the model use dropout or randomness in evaluation mode?",
            )
    return differences


def difference(ours: Array, theirs: Array) -> float:
    """Largest absolute difference, relative to the largest value of `theirs` if above one."""
    if ours.shape != theirs.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(theirs).max()))
    return float(np.abs(ours - theirs).max()) / scale


def _of_extractor(extractor: nn.Module, graph: Graph) -> tuple[float, ...]:
    side = max(graph.inputs[0].dims[1], 0) or PROBE_PX
    rng = np.random.default_rng(0)
    sizes = [min(count, EXTRACTOR_TILES) for count in BAG_TILES]
    bags = [rng.integers(0, 256, (size, side, side, 3), np.uint8) for size in sizes]
    return tuple(_compare(extractor, graph, [bag]) for bag in bags)


def _of_diagnosis(module: nn.Module, graph: Graph) -> tuple[float, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        _compare(
            module,
            graph,
            [
                rng.standard_normal((count + index, tensor.dims[1]), np.float32)
                for index, tensor in enumerate(graph.inputs)
            ],
        )
        for count in BAG_TILES
    )


def _compare(module: nn.Module, graph: Graph, inputs: Iterable[Array]) -> float:
    arrays = list(inputs)
    with torch.inference_mode():
        answer = on_cpu(module)(*(torch.from_numpy(array) for array in arrays))
    expected = (answer,) if isinstance(answer, torch.Tensor) else answer
    names = [tensor.name for tensor in graph.inputs]
    outputs = graph.run(dict(zip(names, arrays, strict=True)))
    pairs = zip(outputs.values(), expected, strict=True)
    return float(np.max([difference(ours, theirs.numpy()) for ours, theirs in pairs]))
