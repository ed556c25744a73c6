"""Stands in for Triton's ONNX Runtime backend in the development server, whose wheel has none.

It runs inside Triton's Python stub, in the server's own environment, and accepts and refuses
the configurations that Triton's backend does, so that what loads here loads in production.
The rules are those of `onnxruntime_backend`, release 24.10; where Triton's core has a say
(names, versions, instance groups, unknown fields), it has had it before this is loaded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
WHOLE_NUMBERS = ("intra_op_thread_count", "inter_op_thread_count", "execution_mode")
SWITCHES = ("enable_mem_arena", "enable_mem_pattern")


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session on the CPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and hold the configuration against it; an exception refuses the model."""
        config = json.loads(args["model_config"])
        file_name = config.get("default_model_filename") or "model.onnx"
        graph = Path(args["model_repository"], args["model_version"], file_name)
        self.session = ort.InferenceSession(
            str(graph), session_options(config), providers=["CPUExecutionProvider"]
        )
        check_config(config, self.session)
        configured = [output["name"] for output in config.get("output", ())]
        self.outputs = configured or [output.name for output in self.session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request; an exception fails the request with its text."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """The outputs that `request` asks for."""
        wanted = set(request.requested_output_names())
        names = [name for name in self.outputs if name in wanted]
        inputs = {tensor.name(): to_array(tensor) for tensor in request.inputs()}
        values = self.session.run(names, inputs) if names else []
        tensors = [to_tensor(name, value) for name, value in zip(names, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """The parameters that Triton's backend knows; it ignores others, and so does this."""
    given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    numbers = {name: whole(name, given[name]) for name in WHOLE_NUMBERS + SWITCHES if name in given}
    options = ort.SessionOptions()
    options.intra_op_num_threads = numbers.get("intra_op_thread_count", 0)
    options.inter_op_num_threads = numbers.get("inter_op_thread_count", 0)
    if numbers.get("execution_mode", 0):
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(numbers.get("enable_mem_arena", 1))
    options.enable_mem_pattern = bool(numbers.get("enable_mem_pattern", 1))
    return options


def whole(name: str, text: str) -> int:
    """`text` as a whole number, or a refusal."""
    try:
        return int(text)
    except ValueError:
        refuse(f"parameter {name!r} is {text!r}, not a whole number")


def check_config(config: dict[str, Any], session: ort.InferenceSession) -> None:
    """Refuse a configuration that does not say what the graph says."""
    batched = config.get("max_batch_size", 0) > 0
    inputs, outputs = config.get("input", ()), config.get("output", ())
    if len(inputs) != len(session.get_inputs()):
        refuse(f"{len(inputs)} inputs are configured, the graph has {len(session.get_inputs())}")
    for given in inputs:
        check_tensor(given, session.get_inputs(), batched=batched, exact=False)
    for given in outputs:
        check_tensor(given, session.get_outputs(), batched=batched, exact=True)


def check_tensor(
    given: dict[str, Any], nodes: Sequence[ort.NodeArg], *, batched: bool, exact: bool
) -> None:
    """Refuse a configured tensor that the graph has not, or has with another type or shape.

    batched: the graph's first axis must be free, and is not among the configured dims
    exact:   free axes must be configured as -1; inputs may be configured narrower
    """
    name = given["name"]
    node = next((node for node in nodes if node.name == name), None)
    if node is None:
        refuse(f"the graph has no {name!r}, only {', '.join(node.name for node in nodes)}")
    if ONNX_TYPES.get(given["data_type"]) != node.type:
        refuse(f"{name!r} is configured as {given['data_type']}, the graph has {node.type}")
    shape = [axis if isinstance(axis, int) else -1 for axis in node.shape]
    if batched and shape[:1] != [-1]:
        refuse(f"{name!r} of shape {shape} cannot be batched: its first axis is not free")
    dims = [int(axis) for axis in given.get("reshape", given).get("shape", given["dims"])]
    full = [-1, *dims] if batched else dims
    fits = len(full) == len(shape) and all(
        axis == size or (axis == -1 and not exact) for axis, size in zip(shape, full, strict=True)
    )
    if not fits:
        refuse(f"{name!r} is configured as {full}, the graph has {shape}")


def refuse(reason: str) -> NoReturn:
    """Make Triton refuse the model."""
    raise pb_utils.TritonModelException(reason)


def to_array(tensor: Any) -> np.ndarray[Any, Any]:
    """A tensor of Triton's as an array.

    By DLPack, because the stub's own conversion was built for numpy 1 and is empty under
    numpy 2; without it where there is nothing to convert.
    """
    array: np.ndarray[Any, Any]
    array = np.from_dlpack(tensor) if all(tensor.shape()) else tensor.as_numpy()
    return array


def to_tensor(name: str, array: np.ndarray[Any, Any]) -> Any:
    """An array as a tensor of Triton's; by DLPack, as in `to_array`."""
    if array.size == 0:
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, np.ascontiguousarray(array))
