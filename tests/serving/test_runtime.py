"""ONNX Runtime loads one whole file or none, and fails in our words."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.files import sha256_of
from sagdeploy.serving import runtime
from sagdeploy.serving.runtime import extractor_card, load_graph

EXTRACTOR = """<ir_version: 10, opset_import: ["" : 18]>
g (uint8[N,H,W,3] tiles) => (float[N,E] features)
<int64[2] sides = {1, 2}> { x = Cast<to = 1>(tiles) features = ReduceMean<keepdims = 0>(x, sides) }
"""
RESHAPE = """<ir_version: 10, opset_import: ["" : 18]>
g (float[N] x) => (float[M,3] y) <int64[2] shape = {-1, 3}> { y = Reshape(x, shape) }
"""
FOREIGN = """<ir_version: 10, opset_import: ["" : 18, "evil" : 1]>
g (float[N] x) => (float[N] y) { y = evil.Run(x) }
"""


def write(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def with_external_data(location: str) -> bytes:
    """A graph whose weights are said to lie in another file."""
    weights = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT)
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y])
    graph.initializer.append(weights)
    opset = helper.make_opsetid("", 18)
    data: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    return data


def test_a_card_tells_what_a_run_gave(tmp_path: Path) -> None:
    path = write(tmp_path / "any.onnx", EXTRACTOR)
    card = extractor_card(path, name="mean", weights="none")
    assert (card.features, card.tile_px, card.sha256) == (3, None, sha256_of(path))
    fixed = write(tmp_path / "fixed.onnx", EXTRACTOR.replace("H,W", "32,32"))
    assert extractor_card(fixed, name="mean", weights="none").tile_px == 32


def test_what_is_no_extractor_gets_no_card(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", RESHAPE)
    with pytest.raises(ModelError, match="not an extractor"):
        extractor_card(path, name="mean", weights="none")


@pytest.mark.parametrize("where", ["w.bin", "../w.bin", "{folder}/w.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_in_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for folder in (tmp_path, inner):
        (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    path = inner / "model.onnx"
    path.write_bytes(with_external_data(where.format(folder=inner)))
    with pytest.raises(ModelError, match=r"model\.onnx is refused"):
        load_graph(path)


@pytest.mark.parametrize("content", [b"", b"no graph", bytes(range(225)) * 4])
def test_what_is_no_onnx_is_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx") as caught:
        load_graph(path)
    assert "\n" not in str(caught.value)


def test_operators_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="evil"):
        load_graph(write(tmp_path / "model.onnx", FOREIGN))


def test_another_file_than_the_manifests_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", EXTRACTOR)
    load_graph(path, sha256=sha256_of(path))
    with pytest.raises(ModelError, match="SHA-256"):
        load_graph(path, sha256="0" * 64)
    with pytest.raises(ModelError, match="cannot be read"):
        load_graph(tmp_path / "missing.onnx")


def test_a_run_that_fails_is_one_line_and_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = load_graph(write(tmp_path / "model.onnx", RESHAPE))
    assert graph.run({"x": np.zeros(6, np.float32)})["y"].shape == (2, 3)
    with pytest.raises(EngineError, match=r"model\.onnx: ONNX Runtime failed") as caught:
        graph.run({"x": np.zeros(7, np.float32)})
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_providers_are_tried_with_is_a_graph() -> None:
    session = runtime._session(runtime._NOTHING, 1, (runtime.CPU,))
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [1]
    assert runtime.providers()[-1] == runtime.CPU
