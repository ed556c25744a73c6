"""Triton's model configurations, `config.pbtxt`, read and written with Triton's own schema.

The schema comes with tritonclient, as one module of its gRPC client. Imported in the usual
way it would bring that client along, which needs grpcio; so the module is loaded by its
path. It needs protobuf alone.
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import text_format
from numpy.typing import NDArray

from sagdeploy.errors import MissingExtraError, ModelError, RepositoryError
from sagdeploy.manifest import PARAMETER, Manifest, parse_manifest

FILE_NAME = "config.pbtxt"
DTYPES = {
    "TYPE_BOOL": "bool",
    "TYPE_UINT8": "uint8",
    "TYPE_INT32": "int32",
    "TYPE_INT64": "int64",
    "TYPE_FP16": "float16",
    "TYPE_FP32": "float32",
    "TYPE_FP64": "float64",
}
"""Triton's names of the types that graphs of ours may take or give, as NumPy's."""

_TRITON_TYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model."""

    name: str
    dtype: str
    """NumPy's name of it."""

    dims: tuple[int, ...]
    """-1 where any length will do."""

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether an array of `shape` fits."""
        return len(shape) == len(self.dims) and all(
            dim in (-1, length) for dim, length in zip(self.dims, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.dims)}"


@dataclass(frozen=True, slots=True)
class Step:
    """One model that an ensemble runs."""

    model: str
    version: int | None
    """None for the latest."""

    inputs: Mapping[str, str]
    """The model's tensor -> the ensemble's tensor."""

    outputs: Mapping[str, str]
    """The model's tensor -> the ensemble's tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelConfig:
    """One model's configuration; what an operator has tuned in it is kept."""

    message: Any
    """`inference.ModelConfig` of Triton's schema."""

    @property
    def name(self) -> str:
        """Name of the model, which is also its folder's."""
        return str(self.message.name)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes, with the axis that Triton leaves out where it may batch requests."""
        return tuple(_tensor(item, self.largest_batch) for item in self.message.input)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives, with that axis too."""
        return tuple(_tensor(item, self.largest_batch) for item in self.message.output)

    @property
    def largest_batch(self) -> int:
        """Longest first axis of a request; 0 where Triton does not batch, and any will do."""
        return int(self.message.max_batch_size)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The models that an ensemble runs; empty for a model with a graph of its own."""
        return tuple(
            Step(
                model=step.model_name,
                version=step.model_version if step.model_version > 0 else None,
                inputs=dict(step.input_map),
                outputs=dict(step.output_map),
            )
            for step in self.message.ensemble_scheduling.step
        )

    @property
    def graph_name(self) -> str:
        """File name of the graph in each version's folder."""
        return self.message.default_model_filename or "model.onnx"

    def manifests(self) -> dict[int, Manifest]:
        """Manifests that an ensemble carries, by version, oldest first."""
        prefix = PARAMETER.format(version="")
        found = (
            parse_manifest(self.message.parameters[key].string_value, f"{self.name}, {key}")
            for key in self.message.parameters
            if key.startswith(prefix)
        )
        return {m.version: m for m in sorted(found, key=lambda m: m.version)}

    def served(self, versions: Iterable[int]) -> tuple[int, ...]:
        """Those of `versions` that Triton would serve, oldest first."""
        policy = self.message.version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return tuple(sorted(versions))
            case "specific":
                return tuple(sorted(set(versions) & set(policy.specific.versions)))
            case _:
                return tuple(sorted(versions))[-(policy.latest.num_versions or 1) :]


def read_config(path: Path) -> ModelConfig:
    """A model's configuration from its file; RepositoryError where Triton would refuse it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RepositoryError(
            f"{path.name} cannot be read: {error.strerror}",
            hint="publish with: sagdeploy export",
            place=str(path.parent),
        ) from error
    except UnicodeDecodeError as error:
        message = f"not a configuration of Triton: {error}"
        raise RepositoryError(message, place=str(path)) from error
    config = parse_config(text, str(path))
    if config.name not in ("", path.parent.name):
        message = f"is the configuration of another model, {config.name}"
        raise RepositoryError(message, place=str(path))
    config.message.name = path.parent.name
    return config


def parse_config(text: str, where: str) -> ModelConfig:
    """A configuration from protobuf text; RepositoryError names `where` it was found."""
    try:
        return ModelConfig(text_format.Parse(text, _schema().ModelConfig()))
    except text_format.ParseError as error:
        reason = str(error).splitlines()[0]
        message = f"not a configuration of Triton: {reason}"
        raise RepositoryError(message, place=where) from error


def config_text(config: ModelConfig) -> str:
    """A configuration as protobuf text, the same for the same configuration."""
    return str(text_format.MessageToString(config.message, as_utf8=True))


def new_config(
    name: str,
    *,
    inputs: Iterable[Tensor],
    outputs: Iterable[Tensor],
    largest_batch: int = 0,
    **fields: str,
) -> ModelConfig:
    """A configuration of the given tensors; `fields` are `backend` or `platform`.

    largest_batch: rows of the first axis, which must be free, that requests may share in a run
    """
    message = _schema().ModelConfig(name=name, max_batch_size=largest_batch, **fields)
    for items, tensors in ((message.input, inputs), (message.output, outputs)):
        for tensor in tensors:
            dims = tensor.dims[1:] if largest_batch else tensor.dims
            items.add(name=tensor.name, data_type=_TRITON_TYPES[tensor.dtype], dims=dims)
    if largest_batch:
        message.dynamic_batching.SetInParent()
    return ModelConfig(message)


def check_batch(config: ModelConfig, inputs: Mapping[str, NDArray[Any]]) -> None:
    """ModelError where a request is larger than Triton takes: it never splits one."""
    largest, count = config.largest_batch, max(map(len, inputs.values()), default=0)
    if largest and count > largest:
        raise ModelError(f"{config.name}: takes {largest} at once, not {count}")


def check_inputs(model: str, tensors: Iterable[Tensor], inputs: Mapping[str, NDArray[Any]]) -> None:
    """ModelError unless `inputs` are those of a model, none of them empty.

    Triton itself would answer for no tiles at all, with the probabilities of its biases.
    """
    wanted = {tensor.name: tensor for tensor in tensors}
    if inputs.keys() != wanted.keys():
        raise ModelError(f"{model}: takes {sorted(wanted)}, not {sorted(inputs)}")
    for name, array in inputs.items():
        if array.dtype != wanted[name].dtype or not wanted[name].takes(array.shape):
            raise ModelError(
                f"{model}: takes {wanted[name]}, not {array.dtype} {list(array.shape)}"
            )
        if not array.size:
            raise ModelError(f"{model}: input {name} is empty")


def check_graph(
    config: ModelConfig, *, inputs: Iterable[Tensor], outputs: Iterable[Tensor]
) -> None:
    """ModelError unless Triton's ONNX Runtime backend would load this graph with this config.

    Configured inputs may be narrower than the graph's, outputs must be the same. So a graph
    whose outputs do not all have a row for each row of its inputs cannot be batched.
    """
    given = {tensor.name: tensor for tensor in inputs}
    if given.keys() != {tensor.name for tensor in config.inputs}:
        raise ModelError(f"{config.name}: the graph's inputs are {sorted(given)}")
    for tensor in config.inputs:
        graph = given[tensor.name]
        if tensor.dtype != graph.dtype or not graph.takes(tensor.dims):
            raise ModelError(f"{config.name}: input {tensor} does not fit the graph's {graph}")
    gives = {tensor.name: tensor for tensor in outputs}
    for tensor in config.outputs:
        if gives.get(tensor.name) != tensor:
            found = gives.get(tensor.name, "none")
            raise ModelError(f"{config.name}: output {tensor} is not the graph's: {found}")


def _tensor(item: Any, largest_batch: int) -> Tensor:
    kind = _schema().DataType.Name(item.data_type)
    dims = (-1, *item.dims) if largest_batch else tuple(item.dims)
    return Tensor(item.name, DTYPES.get(kind, kind), dims)


@cache
def _schema() -> ModuleType:
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("tritonclient is missing", hint="pip install sagdeploy")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("sagdeploy_model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    return schema
