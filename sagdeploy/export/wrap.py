"""Extractors that come as ONNX: a front for tiles as bytes, and the names that clients use."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from sagdeploy.errors import ModelError
from sagdeploy.export.graph import IR_VERSION, OPSET, save_graph
from sagdeploy.files import write_bytes
from sagdeploy.serving.model_config import Tensor
from sagdeploy.serving.runtime import PROBE_PX, Graph, load_graph

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NEWEST_OPSET = 21
"""Newest that the ONNX Runtime of every supported Triton runs."""

INNER = "inner/"
"""Before every name of the graph that is wrapped, so that ours are free."""

_HINT = "an extractor takes one batch of any number of RGB images and gives a vector for each"


def wrap_onnx(
    source: Path,
    target: Path,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    tile_px: int | None = None,
) -> Path:
    """Write `source` as an extractor from `tiles` uint8 (N, H, W, 3) to `features` (N, E).

    A float32 (N, 3, H, W) graph gets its preprocessing in front, `(tile / 255 - mean) / std`.
    A uint8 (N, H, W, 3) one has it already, and stays as it is but for its names.

    tile_px: side of the tiles, where the graph would take any
    """
    graph = load_graph(source)
    image = _image(source, graph)
    side = _side(source, image, tile_px)
    length = _feature_length(source, graph, side)
    model = onnx.load(source)
    _check_opset(source, model)
    if _is_extractor(graph, side) and model.ir_version <= IR_VERSION:
        write_bytes(target, source.read_bytes())
        return target
    joined = compose.add_prefix(model, INNER)
    if image.dtype == "float32":
        _put_front(joined.graph, image.name, 255 * np.array(mean), 255 * np.array(std))
    else:
        joined.graph.node.insert(0, helper.make_node("Identity", ["tiles"], [INNER + image.name]))
    joined.graph.node.append(
        helper.make_node("Flatten", [INNER + graph.outputs[0].name], ["features"])
    )
    _declare(joined.graph, image.name, side, length)
    save_graph(joined, target)
    return target


def _image(source: Path, graph: Graph) -> Tensor:
    """The graph's only input, which must be a batch of images."""
    forms = {"float32": "[N, 3, H, W]", "uint8": "[N, H, W, 3]"}
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        count = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise ModelError(f"{source}: has {count}, not one of each", hint=_HINT)
    image = graph.inputs[0]
    if image.dtype not in forms or len(image.dims) != 4:
        raise ModelError(f"{source}: takes {image}, not float32 [N, 3, H, W]", hint=_HINT)
    batch, channels = image.dims[0], image.dims[_channel_axis(image)]
    if batch != -1 or channels not in (-1, 3):
        wanted = f"{image.dtype} {forms[image.dtype]} with an open N"
        raise ModelError(f"{source}: takes {image}, not {wanted}", hint=_HINT)
    return image


def _side(source: Path, image: Tensor, tile_px: int | None) -> int | None:
    """Side of the only tiles that are taken, or None."""
    axis = _channel_axis(image)
    height, width = (dim for index, dim in enumerate(image.dims) if index not in (0, axis))
    wanted = tile_px or -1
    if height != width or (height != -1 and wanted not in (-1, height)):
        raise ModelError(
            f"{source}: takes {image}, not square tiles of {tile_px or 'one size'}",
            hint=f"pass --tile-px {height}" if height == width else _HINT,
        )
    return max(height, wanted) if max(height, wanted) > 0 else None


def _feature_length(source: Path, graph: Graph, side: int | None) -> int:
    """E, found by running two tiles."""
    image = graph.inputs[0]
    batch = [2, side or PROBE_PX, side or PROBE_PX]
    batch.insert(_channel_axis(image), 3)
    features = graph.run({image.name: np.zeros(batch, image.dtype)})[graph.outputs[0].name]
    shape = features.shape
    is_vectors = len(shape) >= 2 and shape[0] == 2 and features.size == 2 * shape[1]
    if features.dtype != np.float32 or not is_vectors:
        found = f"{features.dtype} {list(shape)} for two tiles"
        raise ModelError(f"{source}: gives {found}, not float32 [2, E]", hint=_HINT)
    return int(shape[1])


def _check_opset(source: Path, model: onnx.ModelProto) -> None:
    opset = max((item.version for item in model.opset_import if not item.domain), default=0)
    if opset > NEWEST_OPSET:
        raise ModelError(
            f"{source}: opset {opset} is newer than every supported Triton runs",
            hint=f"export it with opset {OPSET}",
        )


def _is_extractor(graph: Graph, side: int | None) -> bool:
    """Whether nothing is left to be done."""
    tiles, features = graph.inputs[0], graph.outputs[0]
    form = [(tiles.name, tiles.dtype), (features.name, len(features.dims))]
    return form == [("tiles", "uint8"), ("features", 2)] and tiles.dims[1] == (side or -1)


def _put_front(
    graph: onnx.GraphProto, image: str, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> None:
    """Bytes to a float graph's input: `(tile - mean) / std`, both in the units of the bytes.

    Transposed while they are bytes, which moves a quarter of what floats would.
    """
    nodes = [
        helper.make_node("Transpose", ["tiles"], ["tiles/nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["tiles/nchw"], ["tiles/float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["tiles/float", "tiles/mean"], ["tiles/centred"]),
        helper.make_node("Mul", ["tiles/centred", "tiles/factor"], [INNER + image]),
    ]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    for name, values in (("tiles/mean", mean), ("tiles/factor", 1 / std)):
        constant = values.astype(np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(constant, name))


def _declare(graph: onnx.GraphProto, image: str, side: int | None, length: int) -> None:
    """Make `tiles` and `features` the graph's input and output."""
    dims = ["N", side or "H", side or "W", 3]
    tiles = helper.make_tensor_value_info("tiles", TensorProto.UINT8, dims)
    weights = [value for value in graph.input if value.name != INNER + image]
    del graph.input[:], graph.output[:]
    graph.input.extend([tiles, *weights])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", length])
    graph.output.append(features)


def _channel_axis(image: Tensor) -> int:
    return 3 if image.dtype == "uint8" else 1
