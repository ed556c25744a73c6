"""Channels of one width, so that int8 costs a network with instance norms little.

All channels of a convolution share 256 steps from the least value to the most. Where an
instance norm follows, each may be moved and stretched first, for the norm undoes either: here
every channel gets mean 0 and deviation 1, and the features stay what they were.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sagdeploy.serving.runtime import load_graph

STEADY = 1e-6
"""A channel that deviates less is dead, and stays as it is."""

REACH = 6.0
"""Deviations that bytes are to cover. What lies further out is so rare that to round the rest more
coarsely for it makes a larger error than to cut it off."""

Batches = Sequence[NDArray[np.uint8]]
"""Tiles (N, H, W, 3), some at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """What the channels of a convolution were on some tiles, (C,) each."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def centre_channels(model: onnx.ModelProto, tiles: Batches, scratch: Path) -> list[str]:
    """Change the weights of the convolutions before instance norms to that end.

    scratch: where a file may be written, and left
    returns: names of what these convolutions give
    """
    weights = {each.name: each for each in model.graph.initializer}
    convolutions = [conv for conv in before_norms(model.graph) if weights.keys() >= _stored(conv)]
    if not convolutions:
        return []
    names = [conv.output[0] for conv in convolutions]
    for conv, seen in zip(convolutions, _channels(model, names, tiles, scratch), strict=True):
        stretch = np.where(seen.deviation > STEADY, 1 / np.maximum(seen.deviation, STEADY), 1.0)
        weight = numpy_helper.to_array(weights[conv.input[1]])
        bias = numpy_helper.to_array(weights[conv.input[2]]) if any(conv.input[2:]) else 0.0
        moved = {
            "weight": weight * stretch.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": stretch * (bias - seen.mean),
        }
        for index, (name, values) in enumerate(moved.items(), start=1):
            tensor = numpy_helper.from_array(
                values.astype(np.float32), f"{conv.output[0]}/centred_{name}"
            )
            model.graph.initializer.append(tensor)
            conv.input[index : index + 1] = [tensor.name]
    return names


def before_norms(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Convolutions whose only readers are instance norms."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for node in graph.node:
        if node.op_type == "Conv" and readers.get(node.output[0]) == {"InstanceNormalization"}:
            yield node


def _stored(conv: onnx.NodeProto) -> set[str]:
    """Names of a convolution's weights, and of its bias where it has one: it may be left empty."""
    return set(filter(None, conv.input[1:]))


def _channels(
    model: onnx.ModelProto, names: Sequence[str], tiles: Batches, scratch: Path
) -> list[Channels]:
    """What some tensors (N, C, H, W) of a graph were on the tiles, by channel."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    onnx.save(watched, scratch / "watched.onnx")
    graph = load_graph(scratch / "watched.onnx", threads=0)
    sums = {name: np.zeros((2, 1)) for name in names}
    count = sum(map(len, tiles))
    for batch in tiles:
        outputs = graph.run({"tiles": batch})
        for name in names:
            values = outputs[name].astype(np.float64)
            moments = np.stack([values.mean(axis=(2, 3)), (values**2).mean(axis=(2, 3))])
            sums[name] = sums[name] + moments.sum(axis=1) / count  # (2, C)
    return [
        Channels(mean, np.sqrt(np.maximum(square - mean**2, 0.0))) for mean, square in sums.values()
    ]
