"""The stand-in backend accepts and refuses what Triton's own ONNX Runtime backend does.

The verdicts were taken from Triton's backend of release 24.10, one configuration at a time.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine

NO_ONNX = bytes(range(225)) * 4


@pytest.fixture(scope="module")
def verdicts(shared_data: Path) -> dict[str, Any]:
    """Configurations by name, each with its model and verdict."""
    text = (shared_data / "triton-verdicts.json").read_text()
    configurations: dict[str, Any] = json.loads(text)["configurations"]
    return configurations


def test_the_stand_in_judges_as_triton_does(
    verdicts: dict[str, Any], tmp_path: Path, server_cache: Path | None
) -> None:
    for name, case in verdicts.items():
        write_case(tmp_path / name, case["model"], case["config"])
    with TritonServer(tmp_path, cache=server_cache, is_strict=False) as server:
        engine = TritonEngine(server.url)
        judged = {name: engine.is_ready(name) for name in verdicts}
        engine.close()
    assert judged == {name: case["verdict"] == "accept" for name, case in verdicts.items()}


def write_case(folder: Path, model: str, config: str | None) -> None:
    """One model with one configuration; `ext@net.onnx` names the graph's file."""
    kind, _, file_name = model.partition("@")
    graph = folder / "1" / (file_name or "model.onnx")
    graph.parent.mkdir(parents=True)
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    match kind:
        case "ext":
            write_extractor(graph)
        case "mil":
            write_mil(graph)
        case "bad":
            graph.write_bytes(NO_ONNX)


def write_extractor(path: Path) -> None:
    """tiles uint8 [N, 224, 224, 3] -> features float32 [N, 512]"""
    nodes = [
        helper.make_node("Cast", ["tiles"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "sides"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["features"]),
    ]
    inputs = [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["N", 224, 224, 3])]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 512])]
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "sides"),
        numpy_helper.from_array(np.ones((3, 512), np.float32), "weights"),
    ]
    save_graph(helper.make_graph(nodes, "ext", inputs, outputs, constants), path)


def write_mil(path: Path) -> None:
    """features float32 [N, 512] -> probabilities [1, 2], attention [1, N]"""
    nodes = [
        helper.make_node("Gemm", ["query", "features"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["attention"]),
        helper.make_node("MatMul", ["attention", "features"], ["slide"]),
        helper.make_node("MatMul", ["slide", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 512])]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("attention", TensorProto.FLOAT, [1, "N"]),
    ]
    constants = [
        numpy_helper.from_array(np.ones((1, 512), np.float32), "query"),
        numpy_helper.from_array(np.ones((512, 2), np.float32), "weights"),
    ]
    save_graph(helper.make_graph(nodes, "mil", inputs, outputs, constants), path)


def save_graph(graph: onnx.GraphProto, path: Path) -> None:
    """Write a graph in the format that every supported Triton loads."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
