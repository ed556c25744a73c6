"""Extractors in fewer bits: another inside, the same outside, and nearly the same features."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import IR_VERSION, OPSET
from sagdeploy.export.margin import centred_cosines
from sagdeploy.export.precision import to_fp16, to_int8
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.runtime import extractor_card, load_graph
from tests.export.reducible import TILE_PX, smooth_tiles, write_extractor

Floats = NDArray[np.float32]
LINEAR = ("QuantizeLinear", "DequantizeLinear")
CALIBRATION = tuple(smooth_tiles(8, seed) for seed in (1, 2))


def reduced(precision: str, source: Path) -> Path:
    target = source.with_name(f"{precision}.onnx")
    return to_int8(source, target, CALIBRATION) if precision == "int8" else to_fp16(source, target)


def features(path: Path, tiles: NDArray[np.uint8], *, threads: int = 1) -> Floats:
    found: Floats = load_graph(path, threads=threads).run({"tiles": tiles})["features"]
    return found


def likeness(one: Path, other: Path) -> float:
    """Centred cosine of the features of new tiles."""
    tiles = smooth_tiles(16, seed=9)
    whole = features(one, tiles)
    return float(centred_cosines(whole, features(other, tiles), whole.mean(axis=0)).mean())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network without norms."""
    return write_extractor(tmp_path_factory.mktemp("plain") / "fp32.onnx")


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.99), ("fp16", 0.9999)])
def test_tensors_stay_and_features_nearly_do(plain: Path, precision: str, least: float) -> None:
    path = reduced(precision, plain)
    before, after = load_graph(plain), load_graph(path)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert likeness(plain, path) > least
    card = extractor_card(path, name="small", weights="seeded")
    assert (card.features, card.tile_px) == (24, TILE_PX)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_every_supported_triton_reads_the_graph(plain: Path, precision: str) -> None:
    model = onnx.load(reduced(precision, plain))
    assert model.ir_version == IR_VERSION
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    onnx.checker.check_model(model, full_check=True)


def test_int8_has_unsigned_activations_and_weights_by_channel(plain: Path) -> None:
    graph = onnx.load(reduced("int8", plain)).graph
    constants = {each.name: each for each in graph.initializer}
    inputs = {kind: [n.input for n in graph.node if n.op_type == kind] for kind in LINEAR}
    assert {constants[names[2]].data_type for names in inputs[LINEAR[0]]} == {TensorProto.UINT8}
    stored = [names for names in inputs[LINEAR[1]] if names[0] in constants]
    weights = [names for names in stored if len(constants[names[0]].dims) == 4]
    assert {constants[names[0]].data_type for names in weights} == {TensorProto.INT8}
    assert [list(constants[names[1]].dims) for names in weights] == [[48], [24]]


def test_a_narrow_beginning_stays_in_float32(plain: Path) -> None:
    graph = onnx.load(reduced("int8", plain)).graph
    constants = {each.name: each.data_type for each in graph.initializer}
    first, second, _ = (node.input[1] for node in graph.node if node.op_type == "Conv")
    assert constants[first] == TensorProto.FLOAT
    assert second not in constants  # it is made float again, from int8, on the way


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_features_know_neither_batch_nor_threads(plain: Path, precision: str) -> None:
    path = plain if precision == "fp32" else reduced(precision, plain)
    tiles = smooth_tiles(9, seed=4)
    together = features(path, tiles)
    np.testing.assert_allclose(features(path, tiles, threads=2), together, rtol=1e-5, atol=1e-6)
    alone = np.concatenate([features(path, tiles[i : i + 1]) for i in range(len(tiles))])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-6)


def test_half_of_float16_is_saved(plain: Path) -> None:
    assert reduced("fp16", plain).stat().st_size < 0.6 * plain.stat().st_size


def test_int8_survives_an_open_tile_size(tmp_path: Path) -> None:
    source = write_extractor(tmp_path / "fp32.onnx", side="S")
    path = reduced("int8", source)
    wide = np.tile(smooth_tiles(3), (1, 2, 2, 1))
    assert features(path, wide).shape == (3, 24)
    assert likeness(source, path) > 0.99


def test_channels_of_any_width_survive_before_an_instance_norm(tmp_path: Path) -> None:
    even = write_extractor(tmp_path / "even.onnx", norm=True)
    uneven = write_extractor(tmp_path / "uneven.onnx", norm=True, widths=(0.1, 100))
    assert likeness(even, uneven) > 0.99  # the norm undoes the widths
    assert likeness(uneven, reduced("int8", uneven)) > 0.98


def test_between_norms_only_convolutions_read_bytes(tmp_path: Path) -> None:
    source = write_extractor(tmp_path / "fp32.onnx", norm=True, features=48)
    model = onnx.load(source)
    shortcut = onnx.helper.make_node("Add", ["cr", "br"], ["sum"])
    model.graph.node.insert(len(model.graph.node) - 1, shortcut)
    model.graph.node[-1].input[0] = "sum"
    onnx.save(model, source)
    graph = onnx.load(reduced("int8", source)).graph
    floats = {name for node in graph.node if node.op_type == LINEAR[1] for name in node.output}
    readers = {node.op_type for node in graph.node if floats & set(node.input)}
    assert readers == {"Conv", "InstanceNormalization", "Relu"}  # the last ones what these give
    (add,) = (node for node in graph.node if node.op_type == "Add")
    assert "br" in add.input
    assert likeness(source, tmp_path / "int8.onnx") > 0.98


def test_bytes_before_a_norm_reach_to_six_deviations(tmp_path: Path) -> None:
    graph = onnx.load(reduced("int8", write_extractor(tmp_path / "fp32.onnx", norm=True))).graph
    constants = {each.name: each for each in graph.initializer}
    (step,) = (
        onnx.numpy_helper.to_array(constants[node.input[1]])
        for node in graph.node
        if node.op_type == LINEAR[0] and node.input[0] == "b"
    )
    assert step == pytest.approx(12 / 255)


@pytest.mark.parametrize("bias", ["", "made"])
def test_a_bias_that_is_not_stored_is_none_of_ours_to_move(tmp_path: Path, bias: str) -> None:
    source = write_extractor(tmp_path / "fp32.onnx", norm=True)
    model = onnx.load(source)
    first, *_ = (node for node in model.graph.node if node.op_type == "Conv")
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [first.input[2]], ["made"]))
    first.input[2] = bias
    onnx.save(model, source)
    assert likeness(source, reduced("int8", source)) > 0.98


def test_without_a_norm_uneven_channels_do_not(tmp_path: Path) -> None:
    uneven = write_extractor(tmp_path / "uneven.onnx", widths=(0.01, 1000))
    assert likeness(uneven, reduced("int8", uneven)) < 0.9


def test_the_filter_bank_has_nothing_to_gain(tmp_path: Path, repository: Path) -> None:
    source = repository / "sag_extractor/1/model.onnx"
    assert LocalEngine(repository).manifest("sag").extractor.name == "stain_texture"
    with pytest.raises(ExportError, match="no convolutions worth it") as caught:
        to_int8(source, tmp_path / "int8.onnx", CALIBRATION)
    assert "--precision fp32" in caught.value.hint
    assert not (tmp_path / "int8.onnx").exists()
