"""Exported self-attention says what PyTorch says, and never holds a whole map."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sagdeploy.export.attention import BLOCK_QUERIES
from sagdeploy.export.graph import DiagnosisGraph, export_diagnosis
from sagdeploy.models.scatnet import ScAtNet
from sagdeploy.serving.runtime import load_graph
from tests.peak import growth_mib

FEATURES = 6


@pytest.fixture(scope="module")
def model() -> ScAtNet:
    """One layer of four heads."""
    torch.manual_seed(2)
    return ScAtNet(features=FEATURES, classes=3, dim=8, layers=1, heads=4).eval()


@pytest.fixture(scope="module")
def path(model: ScAtNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph."""
    path = tmp_path_factory.mktemp("diagnosis") / "model.onnx"
    return export_diagnosis(model, path, magnifications=1, features=FEATURES)


@pytest.mark.parametrize("tiles", [1, BLOCK_QUERIES - 1, BLOCK_QUERIES, BLOCK_QUERIES + 1, 777])
def test_bags_that_fill_their_blocks_or_not(model: ScAtNet, path: Path, tiles: int) -> None:
    bag = torch.randn((tiles, FEATURES), generator=torch.Generator().manual_seed(tiles))
    with torch.inference_mode():
        expected = DiagnosisGraph(model, 1.0)(bag)
    found = load_graph(path).run({"features": bag.numpy()})
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["attention_heads"].sum(axis=1), np.ones(4), rtol=1e-5)


def test_only_standard_operators_are_left(path: Path) -> None:
    nodes = onnx.load(path).graph.node
    assert {node.domain for node in nodes} == {""}
    assert [node.op_type for node in nodes].count("Scan") == 1
    softmaxes = [node.name for node in nodes if node.op_type == "Softmax"]
    assert len(softmaxes) == 1  # of the logits; that of the map is inside the Scan


def test_the_same_model_is_the_same_file(model: ScAtNet, path: Path, tmp_path: Path) -> None:
    again = export_diagnosis(model, tmp_path / "again.onnx", magnifications=1, features=FEATURES)
    assert again.read_bytes() == path.read_bytes()


def test_memory_does_not_grow_with_the_square_of_the_bag(path: Path) -> None:
    tiles = 6000  # a whole map of four heads takes 549 MiB
    setup = f"""
import numpy as np
from pathlib import Path
from sagdeploy.serving.runtime import load_graph
graph = load_graph(Path({str(path)!r}))
bag = np.zeros(({tiles}, {FEATURES}), np.float32)
graph.run({{"features": bag[:100]}})
"""
    assert growth_mib(setup, 'graph.run({"features": bag})') < 0.1 * 549
