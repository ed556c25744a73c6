"""Networks and products of matrices that `extractor.py` times."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from sagdeploy.export.graph import export_extractor
from sagdeploy.export.precision import to_int8
from sagdeploy.models.extractors import build_extractor
from sagdeploy.serving.runtime import Graph, load_graph

TILE_PX = 224
BATCHES = (1, 8, 16, 32)
USUAL_BATCH = 8
GEMM = 1536
NETWORKS = ("mobilenet_v2", "resnet18", "resnet18_instancenorm")
"""resnet18 is one whose batch norms lie in its convolutions, as in any exported graph."""

Tiles = NDArray[np.uint8]
Work = Callable[[], object]


def ways(network: str, scratch: Path, tiles: Tiles) -> dict[str, Work]:
    """Everything that is timed of one network."""
    name = "resnet18_instancenorm" if network == "resnet18" else network
    module = build_extractor(name, seed=0)
    whole = export_extractor(module, scratch / f"{network}.onnx", tile_px=TILE_PX)
    if network == "resnet18":
        _save(without_norms(onnx.load(whole)), whole)
    int8 = to_int8(whole, scratch / f"{network}.int8.onnx", np.split(tiles[:16], 2))
    bare = _save(without_front(onnx.load(whole)), scratch / f"{network}.bare.onnx")
    fp32, lower, inner = (load_graph(path) for path in (whole, int8, bare))
    images = tiles.transpose(0, 3, 1, 2).astype(np.float32) - module.mean.numpy()
    found: dict[str, Work] = {}
    for label, graph in (("fp32", fp32), ("int8", lower)):
        for batch in BATCHES:
            found[f"{label}, batch {batch}"] = _each(graph, "tiles", tiles, batch)
        found[f"{label}, two threads"] = _beside(graph, tiles)
    found["no input stage"] = _each(inner, inner.inputs[0].name, images, USUAL_BATCH)
    if network != "resnet18":  # whose norms are in PyTorch's network still
        found["PyTorch"] = lambda: eager(module, tiles, 1)
        found["PyTorch, two threads"] = lambda: eager(module, tiles, 2)
    return found


def limits() -> dict[str, Work]:
    """Products of matrices, with one thread and two."""
    a, b = np.random.default_rng(0).random((2, GEMM, GEMM), np.float32)

    def multiply(threads: int) -> None:
        with threadpool_limits(threads, "blas"):
            np.matmul(a, b)

    return {"sgemm": lambda: multiply(1), "sgemm, two threads": lambda: multiply(2)}


def eager(module: nn.Module, tiles: Tiles, threads: int) -> None:
    """PyTorch as it comes."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for start in range(0, len(tiles), USUAL_BATCH):
            module(torch.from_numpy(tiles[start : start + USUAL_BATCH]))


def without_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with each instance norm left out, and pooling flat, as other exports have it."""
    left_out = ("InstanceNormalization", "Unsqueeze", "Squeeze")
    for leaving in [node for node in model.graph.node if node.op_type in left_out]:
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == leaving.output[0]:
                    node.input[index] = leaving.input[0]
        model.graph.node.remove(leaving)
    (pool,) = (node for node in model.graph.node if node.op_type == "MaxPool")
    for attribute in pool.attribute:
        sides = list(attribute.ints)  # of depth, height, width; pads are these twice
        attribute.ints[:] = [*sides[1:3], *sides[4:]]
    return model


def without_front(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network from the first convolution on, whose input is float (N, 3, H, W)."""
    first = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    image = model.graph.node[first].input[0]
    del model.graph.node[:first], model.graph.input[:]
    dims = ["N", 3, TILE_PX, TILE_PX]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(image, onnx.TensorProto.FLOAT, dims)
    )
    return model


def flops(network: str) -> float:
    """Of one tile: two a multiplication that is added."""
    module = build_extractor(network if network == "mobilenet_v2" else NETWORKS[-1], seed=0)
    counts = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counts.append(2 * output[0].numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        module(torch.zeros(1, TILE_PX, TILE_PX, 3, dtype=torch.uint8))
    return float(sum(counts))


def _each(graph: Graph, name: str, values: NDArray[np.generic], batch: int) -> Work:
    parts = [values[start : start + batch] for start in range(0, len(values), batch)]
    return lambda: [graph.run({name: part}) for part in parts]


def _beside(graph: Graph, tiles: Tiles) -> Work:
    parts = [tiles[start : start + USUAL_BATCH] for start in range(0, len(tiles), USUAL_BATCH)]

    def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda part: graph.run({"tiles": part}), parts))

    return run


def _save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path
