"""What is said to a Triton server and what it says: the KServe v2 protocol, checked.

tritonclient writes and reads the tensors. What a server sends is hostile until it is read:
every message has a model here, and every tensor is held against the model's signature.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from sagdeploy.config import problems
from sagdeploy.errors import EngineError, ModelError
from sagdeploy.manifest import PARAMETER
from sagdeploy.serving.engine import Arrays
from sagdeploy.serving.shared_memory import Region

HEADER_BYTES = "Inference-Header-Content-Length"
LONGEST_TEXT = 200
LARGEST_REQUEST = 2**31 - 2**20
"""Bytes of tensors; Triton counts those of a request in 31 bits."""


class ServerInfo(BaseModel):
    """What the server says of itself."""

    name: str
    version: str


class Indexed(BaseModel):
    """A model in the server's repository, one entry a version."""

    name: str


class TensorInfo(BaseModel):
    """A model's input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 where any size will do."""


class Signature(BaseModel):
    """What goes into a model and comes out."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class Parameter(BaseModel):
    """A value in a model's configuration."""

    string_value: str = ""


class Versions(BaseModel):
    """Versions by number."""

    versions: tuple[int, ...] = ()


class VersionPolicy(BaseModel):
    """Which versions are served, where they are listed."""

    specific: Versions = Versions()


class ServedConfig(BaseModel):
    """What a client needs of a model's configuration."""

    max_batch_size: NonNegativeInt = 0
    parameters: dict[str, Parameter] = {}
    version_policy: VersionPolicy = VersionPolicy()

    @property
    def manifests(self) -> dict[int, str]:
        """Text of each version's manifest."""
        start = PARAMETER.format(version="")
        return {
            int(key.removeprefix(start)): parameter.string_value
            for key, parameter in self.parameters.items()
            if key.startswith(start) and key.removeprefix(start).isdecimal()
        }

    @property
    def latest(self) -> int | None:
        """The version that an ensemble of ours serves."""
        return max(self.version_policy.specific.versions or self.manifests, default=None)


class _Size(BaseModel):
    binary_data_size: NonNegativeInt


class _Output(BaseModel):
    name: str
    datatype: str
    shape: tuple[NonNegativeInt, ...]
    parameters: _Size


class _Inferred(BaseModel):
    """The JSON before an answer's tensors."""

    model_version: str
    outputs: tuple[_Output, ...]


class _Refused(BaseModel):
    error: str


Message = TypeVar("Message")


def read_message(kind: type[Message], body: bytes) -> Message:
    """The message of `kind` in `body`; EngineError where it is another."""
    try:
        return TypeAdapter(kind).validate_json(body)
    except ValidationError as error:
        raise EngineError(
            f"the answer is not what Triton says: {problems(error)[:LONGEST_TEXT]}"
        ) from error


def error_text(body: bytes) -> str:
    """Why Triton refuses, in one line; empty where it was not Triton that refused."""
    try:
        text = _Refused.model_validate_json(body).error
    except ValidationError:
        return ""
    return " ".join(text.replace("[request id: <id_unknown>]", "").split())[:LONGEST_TEXT]


def check_request(inputs: Arrays, signature: Signature) -> None:
    """ModelError where the model does not take such inputs."""
    if set(inputs) != {given.name for given in signature.inputs}:
        names = ", ".join(given.name for given in signature.inputs)
        raise ModelError(f"{signature.name}: takes {names}, not {', '.join(inputs) or 'nothing'}")
    size = sum(array.nbytes for array in inputs.values())
    if size > LARGEST_REQUEST:
        raise ModelError(
            f"{signature.name}: a request of {size:,} bytes is more than Triton takes at once",
            hint="ask the extractor for fewer tiles at a time",
        )
    for info in signature.inputs:
        _check_input(inputs[info.name], info, signature.name)


def encode_inputs(
    inputs: Arrays, signature: Signature, region: Region | None = None
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request; the inputs themselves are written to `region` if given."""
    tensors = [_encoded(inputs[info.name], info, region) for info in signature.inputs]
    body, header_bytes = InferenceServerClient.generate_request_body(tensors)
    return body, {} if header_bytes is None else {HEADER_BYTES: str(header_bytes)}


def decode_outputs(
    body: bytes, header_bytes: str, signature: Signature, version: int | None
) -> dict[str, NDArray[Any]]:
    """Every output of the signature, whole, of its type and shape, finite; else EngineError."""
    if not header_bytes.isdecimal() or int(header_bytes) > len(body):
        raise EngineError("the answer does not tell where its tensors begin")
    start = int(header_bytes)
    inferred = read_message(_Inferred, body[:start])
    if version is not None and inferred.model_version != str(version):
        raise EngineError(f"version {inferred.model_version} answered, not {version}")
    _check_sizes(inferred.outputs, len(body) - start)
    answered = {output.name: output for output in inferred.outputs}
    for info in signature.outputs:
        if info.name not in answered:
            raise EngineError(f"the answer lacks the output {info.name!r}")
        output = answered[info.name]
        if output.datatype != info.datatype or not _fits(output.shape, info.shape):
            raise EngineError(f"the answer holds {_told(output)}, where {_told(info)} was due")
    result = InferenceServerClient.parse_response_body(body, header_length=start)
    return {info.name: _finite(info.name, result.as_numpy(info.name)) for info in signature.outputs}


def _check_input(array: NDArray[Any], info: TensorInfo, model: str) -> None:
    datatype = np_to_triton_dtype(array.dtype)
    given = TensorInfo(name=info.name, datatype=datatype or str(array.dtype), shape=array.shape)
    if given.datatype != info.datatype or not _fits(array.shape, info.shape):
        raise ModelError(f"{model}: takes {_told(info)}, not {_told(given)}")
    if array.size == 0:  # Triton would answer, with numbers that mean nothing
        raise ModelError(f"{model}: an empty {info.name!r} has no answer")


def _encoded(array: NDArray[Any], info: TensorInfo, region: Region | None) -> InferInput:
    tensor = InferInput(info.name, array.shape, info.datatype)
    if region is None:
        tensor.set_data_from_numpy(array)
    else:
        tensor.set_shared_memory(region.name, array.nbytes, region.write(array))
    return tensor


def _check_sizes(outputs: Sequence[_Output], size: int) -> None:
    for output in outputs:
        dtype = triton_to_np_dtype(output.datatype)
        if dtype is None or dtype is np.object_:
            raise EngineError(f"the answer holds {_told(output)}, which is no array of numbers")
        due = math.prod(output.shape) * np.dtype(dtype).itemsize
        if output.parameters.binary_data_size != due:
            raise EngineError(
                f"the answer gives {_told(output)} {output.parameters.binary_data_size} bytes"
            )
    if sum(output.parameters.binary_data_size for output in outputs) != size:
        raise EngineError(f"the answer's {size} bytes of tensors are not those it announces")


def _fits(shape: Sequence[int], free: Sequence[int]) -> bool:
    return len(shape) == len(free) and all(
        axis in (-1, size) for size, axis in zip(shape, free, strict=True)
    )


def _told(tensor: TensorInfo | _Output) -> str:
    return f"{tensor.name!r} as {tensor.datatype} {list(tensor.shape)}"


def _finite(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EngineError(f"output {name!r} holds values that are not finite")
    return array
