"""Exported attention pooling says what PyTorch says, and holds one block of tiles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sagdeploy.export.graph import DiagnosisGraph, export_diagnosis
from sagdeploy.export.pooling import BLOCK_TILES
from sagdeploy.models.abmil import Abmil, Kind
from sagdeploy.models.attention import ModelOutput
from sagdeploy.models.pooling import attention_pool
from sagdeploy.models.standardise import Standardised
from sagdeploy.serving.runtime import load_graph
from tests.peak import growth_mib

FEATURES = 6
SIZES = (1, BLOCK_TILES - 1, BLOCK_TILES, BLOCK_TILES + 1, 3 * BLOCK_TILES + 7)


class Meeting(nn.Module):
    """Tiles meet before they are pooled: each is seen beside the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(FEATURES, 1)
        self.classify = nn.Linear(FEATURES, 3)

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """As models.attention has it."""
        rows = features[0] - features[0].mean(dim=1, keepdim=True)
        mean, attention = attention_pool(rows, self.score(rows), is_tile[0])
        return ModelOutput(self.classify(mean), (attention[:, None, None],))


def model_of(kind: Kind, *, project: int = 0, standardised: bool = False) -> nn.Module:
    """An ABMIL over two magnifications, with random weights."""
    torch.manual_seed(3)
    model: nn.Module = Abmil(
        features=FEATURES, classes=3, magnifications=2, kind=kind, project=project
    )
    if standardised:
        model = scaled = Standardised(model, features=FEATURES)
        scaled.mean.normal_()
        scaled.deviation.uniform_(0.5, 2)
    return model.eval()


def bags_of(tiles: Sequence[int], *, scale: float = 1.0) -> list[Tensor]:
    """Features whose largest scores come up anywhere."""
    draw = torch.Generator().manual_seed(sum(tiles))
    return [scale * torch.randn((count, FEATURES), generator=draw) for count in tiles]


def assert_agrees(path: Path, model: nn.Module, bags: Sequence[Tensor]) -> None:
    """The graph's outputs are PyTorch's."""
    with torch.inference_mode():
        expected = DiagnosisGraph(model, 1.0)(*bags)
    graph = load_graph(path)
    names = [tensor.name for tensor in graph.inputs]
    found = graph.run(dict(zip(names, (bag.numpy() for bag in bags), strict=True)))
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "project", "standardised"),
    [("relu", 0, False), ("relu", 4, True), ("tanh", 0, True), ("gated", 4, False)],
)
def test_every_form_of_abmil(kind: Kind, project: int, standardised: bool, tmp_path: Path) -> None:
    model = model_of(kind, project=project, standardised=standardised)
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=2, features=FEATURES)
    for tiles in SIZES:
        assert_agrees(path, model, bags_of((tiles, tiles + 5)))


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_scores_that_are_all_alike_or_far_apart(scale: float, tmp_path: Path) -> None:
    model = model_of("relu")
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=2, features=FEATURES)
    assert_agrees(path, model, bags_of((3 * BLOCK_TILES, 5), scale=scale))


def test_nothing_of_the_whole_bag_is_made_outside_the_loop(tmp_path: Path) -> None:
    model = model_of("gated", project=4, standardised=True)
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=2, features=FEATURES)
    graph = onnx.load(path).graph
    takers = [node.op_type for node in graph.node if {"features_0", "features_1"} & {*node.input}]
    assert takers == ["Shape", "Shape"]  # and the loops' bodies
    outside = {node.op_type for node in graph.node}
    assert not outside & {"MatMul", "Tanh", "Sigmoid", "Relu", "Slice"}


def test_tiles_that_meet_before_are_pooled_at_once(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Meeting().eval()
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=1, features=FEATURES)
    assert "Loop" not in {node.op_type for node in onnx.load(path).graph.node}
    for tiles in SIZES:
        assert_agrees(path, model, bags_of((tiles,)))


def test_features_that_are_no_numbers_are_not_hidden(tmp_path: Path) -> None:
    model = Abmil(features=FEATURES, classes=3).eval()
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=1, features=FEATURES)
    (bag,) = bags_of((2 * BLOCK_TILES,))
    bag[3, 2] = float("nan")
    assert np.isnan(load_graph(path).run({"features": bag.numpy()})["probabilities"]).all()


def test_memory_beside_the_bag_is_that_of_a_block(tmp_path: Path) -> None:
    features, tiles = 512, 40_000  # 78 MiB, which hidden units would take once more
    model = Standardised(Abmil(features=features, classes=2), features=features).eval()
    path = export_diagnosis(model, tmp_path / "m.onnx", magnifications=1, features=features)
    setup = f"""
import numpy as np
from pathlib import Path
from sagdeploy.serving.runtime import load_graph
graph = load_graph(Path({str(path)!r}))
bag = np.full(({tiles}, {features}), 0.5, np.float32)
graph.run({{"features": bag[:{2 * BLOCK_TILES}]}})
"""
    assert growth_mib(setup, 'graph.run({"features": bag})') < 0.1 * 78
