"""An extractor in fewer bits: whole numbers of 8 bits for a CPU, floats of 16 for a GPU.

Only what lies inside is another: tiles come in as bytes and features leave as float32, so that
whoever runs the one graph runs the other. bfloat16 is not among them: ONNX Runtime computes
nothing in it on a CPU, and on a GPU float16 is as fast.
"""

from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from sagdeploy.errors import ExportError
from sagdeploy.export.centring import REACH, Batches, before_norms, centre_channels
from sagdeploy.export.graph import save_graph

MATRICES = ("Conv", "Gemm", "MatMul")
IN_INT8 = (*MATRICES, "Add", "Clip", "Relu")
"""What is computed in int8; for the rest it is not made, or gains nothing. Between norms, which
are in float32, it is the matrices alone."""

NARROW = 32
"""Convolutions to so few channels stay in float32 where the network begins: in MobileNetV2 they
make half of the error, and with so few channels int8 is the slower."""

LEAST_WEIGHTS = 10_000
"""Of all matrices: with fewer, they are not where the time goes."""

_REACH = {"rmin": np.float32(-REACH), "rmax": np.float32(REACH)}
_FAILURES = (ValueError, RuntimeError, TypeError, LookupError, onnx.shape_inference.InferenceError)
_HINT = "export it with --precision fp32"


def to_int8(source: Path, target: Path, tiles: Batches) -> Path:
    """Write the extractor in `source` in int8: weights by channel, activations as bytes.

    Activations are unsigned, for which processors have an instruction that they lack for signed
    ones, and reach from the least to the most that they were on `tiles`, or before an instance
    norm over the most of it.
    """
    model = onnx.load(source)
    _refuse_small(source, model)
    with TemporaryDirectory() as folder:
        centred = centre_channels(model, tiles, Path(folder))
        plain, ready, done = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "done"))
        onnx.save(model, plain)
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                done,
                _Tiles(tiles),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(MATRICES if centred else IN_INT8),
                nodes_to_exclude=_beginning(ready),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"TensorQuantOverrides": {name: [_REACH] for name in centred}},
            )
        except _FAILURES as error:
            raise _unable(source, "int8", error) from error
        model = onnx.load(done)
        if centred:
            _keep_floats(model.graph)
        _save(model, target)
    return target


def to_fp16(source: Path, target: Path) -> Path:
    """Write the extractor in `source` with weights and activations in float16."""
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(source))
        halved = convert_float_to_float16(model, keep_io_types=True)
    except _FAILURES as error:
        raise _unable(source, "fp16", error) from error
    _save(halved, target)
    return target


class _Tiles(CalibrationDataReader):  # type: ignore[misc] # has no types
    """What the quantiser runs the graph on."""

    def __init__(self, tiles: Batches) -> None:
        self._tiles = iter(tiles)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The inputs of the next run, None at the end."""
        batch = next(self._tiles, None)
        return None if batch is None else {"tiles": batch}


def _beginning(path: Path) -> list[str]:
    """Names of the convolutions that stay in float32; every node of the file has one then.

    They are the narrow ones, and the first where an instance norm magnifies what it gets wrong.
    """
    model = onnx.load(path)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{index}"
    onnx.save(model, path)
    outputs = {each.name: each.dims[0] for each in model.graph.initializer if each.dims}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    narrow = takewhile(lambda conv: outputs.get(conv.input[1], 0) <= NARROW, convolutions)
    first = {conv.name for conv in convolutions[:1]}
    magnified = first & {conv.name for conv in before_norms(model.graph)}
    return [*magnified, *(conv.name for conv in narrow)]


def _keep_floats(graph: onnx.GraphProto) -> None:
    """Let all but matrices read floats as they were before they became bytes, and floats again.

    So shortcuts lose nothing, and the first features are pooled as floats, not as bytes: that
    takes ONNX Runtime fifteen times as long where a norm gives them.
    """
    made = {name: node for node in graph.node for name in node.output}
    floats = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in made:
            before = made[node.input[0]].input[0]
            if before in made and made[before].op_type not in MATRICES:
                floats[node.output[0]] = before
    for node in graph.node:
        if node.op_type not in MATRICES:
            node.input[:] = [floats.get(name, name) for name in node.input]


def _refuse_small(source: Path, model: onnx.ModelProto) -> None:
    """ExportError for a graph without convolutions worth it."""
    sizes = {each.name: int(np.prod(each.dims)) for each in model.graph.initializer}
    matrices = [node for node in model.graph.node if node.op_type in MATRICES]
    weights = sum(sizes.get(node.input[1], 0) for node in matrices)
    if weights < LEAST_WEIGHTS:
        raise ExportError(
            f"{source}: has no convolutions worth it: of {weights:,} weights in all, int8 would "
            "cost accuracy and save no time",
            hint=_HINT,
        )


def _save(model: onnx.ModelProto, target: Path) -> None:
    """Write what a tool has made, without the domains whose operators it does not use."""
    used = {node.domain for node in model.graph.node}
    own = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(own)
    save_graph(model, target)


def _unable(source: Path, precision: str, error: Exception) -> ExportError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ExportError(f"{source}: cannot be brought to {precision}: {reason}", hint=_HINT)
