"""Stands in for Triton's ONNX Runtime backend in the development server, whose wheel has none.

It runs inside Triton's Python stub, in the server's own environment, and accepts and refuses
the configurations that Triton's backend does, so that what loads here loads in production.
The rules are those of `onnxruntime_backend`, release 24.10; where Triton's core has a say
(names, versions, instance groups, unknown fields), it has had it before this is loaded.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
ROWS = 8
"""Of a batched request in one run on one core."""
SWITCHES = ("enable_mem_arena", "enable_mem_pattern")


Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session on the CPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and hold the configuration against it; an exception refuses the model."""
        config = json.loads(args["model_config"])
        file_name = config.get("default_model_filename") or "model.onnx"
        graph = Path(args["model_repository"], args["model_version"], file_name)
        self.is_batched = config.get("max_batch_size", 0) > 0
        self.session = ort.InferenceSession(
            str(graph), session_options(config), providers=["CPUExecutionProvider"]
        )
        check_config(config, self.session)
        self.threads = ThreadPoolExecutor(cores())
        configured = [output["name"] for output in config.get("output", ())]
        self.outputs = configured or [output.name for output in self.session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request; an exception fails the requests with its text."""
        inputs = [{each.name(): to_array(each) for each in r.inputs()} for r in requests]
        answers = self.run_together(inputs) if self.is_batched else map(self.run, inputs)
        pairs = zip(requests, answers, strict=True)
        return [respond(request, self.outputs, values) for request, values in pairs]

    def run(self, inputs: Arrays) -> list[Array]:
        """The outputs."""
        values: list[Array] = self.session.run(self.outputs, inputs)
        return values

    def run_together(self, requests: list[Arrays]) -> list[list[Array]]:
        """The outputs of requests that Triton has batched: a few rows on each core at a time.

        That is faster on a CPU than one run on all cores, and what a request is answered does
        not depend on those beside it, to the last bit.
        """
        running = [[self.threads.submit(self.run, share) for share in shares(r)] for r in requests]
        return [
            [np.concatenate(parts) for parts in zip(*(each.result() for each in own), strict=True)]
            for own in running
        ]


def respond(request: Any, names: Sequence[str], values: Sequence[Array]) -> Any:
    """A response with those of the values that `request` asks for."""
    wanted = set(request.requested_output_names())
    pairs = zip(names, values, strict=True)
    tensors = [to_tensor(name, value) for name, value in pairs if name in wanted]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def shares(inputs: Arrays) -> list[Arrays]:
    """The rows of a request, some at a time."""
    count = len(next(iter(inputs.values())))
    starts = range(0, max(count, 1), ROWS)
    return [{name: array[i : i + ROWS] for name, array in inputs.items()} for i in starts]


def cores() -> int:
    """Cores that the server may use."""
    return len(os.sched_getaffinity(0))


def session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """The parameters that Triton's backend knows; it ignores others, and so does this."""
    given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    numbers = {name: whole(name, given[name]) for name in WHOLE_NUMBERS + SWITCHES if name in given}
    options = ort.SessionOptions()
    is_batched = config.get("max_batch_size", 0) > 0
    options.intra_op_num_threads = numbers.get("intra_op_thread_count", int(is_batched))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def to_array(tensor: Any) -> Array:
    """A tensor of Triton's as an array.

    By DLPack, because the stub's own conversion was built for numpy 1 and is empty under
    numpy 2; without it where there is nothing to convert.
    """
    array: Array
    array = np.from_dlpack(tensor) if all(tensor.shape()) else tensor.as_numpy()
    return array


def to_tensor(name: str, array: Array) -> Any:
    """An array as a tensor of Triton's; by DLPack, as in `to_array`."""
    if array.size == 0:
        return pb_utils.Tensor(name, array)
    return pb_utils.Tensor.from_dlpack(name, np.ascontiguousarray(array))
