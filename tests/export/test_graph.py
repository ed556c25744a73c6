"""Exported graphs take any number of tiles and give away nothing of the machine they are from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import DiagnosisGraph, export_diagnosis, export_extractor, save_graph
from sagdeploy.export.parity import (
    BAG_TILES,
    TOLERANCE,
    diagnosis_parity,
    difference,
    extractor_parity,
)
from sagdeploy.models.attention import ModelOutput, masked_softmax
from sagdeploy.serving.runtime import load_graph

FEATURES = 6


class Convolution(nn.Module):
    """uint8 (N, H, W, 3) -> (N, E)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor([120.0, 100, 90])[:, None, None])
        self.conv = nn.Conv2d(3, FEATURES, 3, stride=2)

    def forward(self, tiles: Tensor) -> Tensor:
        """(N, H, W, 3) -> (N, E)."""
        image = tiles.permute(0, 3, 1, 2).to(torch.float32) - self.mean
        return torch.relu(self.conv(image / 60)).mean((2, 3))


class Attention(nn.Module):
    """L layers of H heads that look at the features as they are."""

    def __init__(self, layers: int = 1, heads: int = 1, *, classes: int = 3) -> None:
        super().__init__()
        self.shape = (layers, heads)
        self.score = nn.Linear(FEATURES, layers * heads)
        self.classify = nn.Linear(FEATURES, classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """As models.attention has it."""
        attention = [
            masked_softmax(self.score(bag).mT, real[:, None]).reshape(1, *self.shape, -1)
            for bag, real in zip(features, is_tile, strict=True)
        ]
        pairs = zip(attention, features, strict=True)
        slide = sum(each.mean((1, 2))[:, None] @ bag for each, bag in pairs)
        return ModelOutput(self.classify(self.dropout(slide))[:, 0], tuple(attention))


class Positions(Attention):
    """Takes as many tiles as it knows positions, and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(7, FEATURES))

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """As models.attention has it."""
        return super().forward([bag + self.position for bag in features], is_tile)


class Branching(Attention):
    """Decides by a value."""

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """As models.attention has it."""
        sign = 1 if features[0].sum() > 0 else -1
        return super().forward([bag * sign for bag in features], is_tile)


def convolution() -> Convolution:
    """Always with the same weights."""
    torch.manual_seed(5)
    return Convolution()


@pytest.fixture(scope="module")
def extractor_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes tiles of any size."""
    path = tmp_path_factory.mktemp("extractor") / "model.onnx"
    return export_extractor(convolution(), path, tile_px=None)


def test_an_extractor_takes_tiles_of_any_number_and_size(extractor_onnx: Path) -> None:
    graph = load_graph(extractor_onnx)
    for shape in [(1, 40, 52, 3), (9, 224, 64, 3)]:
        tiles = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        expected = convolution()(torch.from_numpy(tiles)).detach().numpy()
        np.testing.assert_allclose(graph.run({"tiles": tiles})["features"], expected, atol=1e-5)


def test_open_dimensions_have_their_names(extractor_onnx: Path, tmp_path: Path) -> None:
    tiles = onnx.load(extractor_onnx).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in tiles] == ["N", "H", "W", 3]
    fixed = export_extractor(convolution(), tmp_path / "fixed.onnx", tile_px=48)
    assert load_graph(fixed).inputs[0].dims == (-1, 48, 48, 3)


def test_every_supported_triton_reads_the_format(extractor_onnx: Path) -> None:
    model = onnx.load(extractor_onnx, load_external_data=False)
    assert model.ir_version == 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert [path.name for path in extractor_onnx.parent.iterdir()] == ["model.onnx"]


def test_no_path_of_the_machine_is_in_the_file(extractor_onnx: Path) -> None:
    data = extractor_onnx.read_bytes()
    for trace in (__file__, "test_graph", "site-packages", "forward"):
        assert trace.encode() not in data


def test_the_same_model_is_the_same_file(extractor_onnx: Path, tmp_path: Path) -> None:
    again = export_extractor(convolution(), tmp_path / "again.onnx", tile_px=None)
    assert again.read_bytes() == extractor_onnx.read_bytes()


@pytest.mark.parametrize(
    ("layers", "heads", "magnifications", "names"),
    [
        (1, 1, 1, ["attention"]),
        (2, 3, 1, ["attention", "attention_heads"]),
        (1, 2, 2, ["attention_0", "attention_1", "attention_heads_0", "attention_heads_1"]),
    ],
)
def test_a_diagnosis_says_what_pytorch_says(
    tmp_path: Path,
    extractor_onnx: Path,
    layers: int,
    heads: int,
    magnifications: int,
    names: list[str],
) -> None:
    model = Attention(layers, heads).train()
    path = export_diagnosis(
        model,
        tmp_path / "diagnosis.onnx",
        magnifications=magnifications,
        features=FEATURES,
        temperature=1.7,
    )
    assert model.training
    outputs = load_graph(path).outputs
    assert [tensor.name for tensor in outputs] == ["probabilities", "logits", *names]
    assert [tensor.dims for tensor in outputs[:2]] == [(3,), (3,)]
    for tensor in outputs[2:]:
        assert tensor.dims == ((layers * heads, -1) if "heads" in tensor.name else (-1,))
    of_diagnosis = diagnosis_parity(model, path, temperature=1.7)
    of_extractor = extractor_parity(convolution(), extractor_onnx)
    assert len(of_extractor) == len(of_diagnosis) == len(BAG_TILES) == 3
    assert max(of_extractor + of_diagnosis) < TOLERANCE / 10


def test_temperature_moves_probabilities_and_not_logits() -> None:
    model, bag = Attention(), torch.randn(7, FEATURES)
    cold = DiagnosisGraph(model.eval(), 1.0)(bag)
    warm = DiagnosisGraph(model.eval(), 4.0)(bag)
    assert torch.equal(cold[1], warm[1])
    torch.testing.assert_close(warm[0], torch.softmax(cold[1] / 4, -1))


@pytest.mark.parametrize("kind", [Positions, Branching])
def test_a_model_that_cannot_be_exported_is_told_in_a_line(
    tmp_path: Path, kind: type[Attention]
) -> None:
    with pytest.raises(ExportError) as caught:
        export_diagnosis(kind(), tmp_path / "d.onnx", magnifications=1, features=FEATURES)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_another_model_than_the_exported_one_is_refused(
    tmp_path: Path, extractor_onnx: Path
) -> None:
    torch.manual_seed(1)
    exported, other = Attention(), Attention()
    path = export_diagnosis(exported, tmp_path / "d.onnx", magnifications=1, features=FEATURES)
    with pytest.raises(ExportError, match=r"diagnosis: .* differs from PyTorch by \d\.\de"):
        diagnosis_parity(other, path)
    with pytest.raises(ExportError, match="extractor: "):
        extractor_parity(Convolution(), extractor_onnx)


def test_a_difference_is_relative_above_one_and_never_hides_nan() -> None:
    ones = np.ones(3, np.float32)
    assert difference(ones, ones * 0.5) == 0.5
    assert difference(ones * 100, ones * 200) == 0.5
    assert np.isnan(difference(ones, ones * np.float32("nan")))
    assert difference(ones, np.ones(1, np.float32)) == float("inf")


def test_a_graph_of_more_than_two_gigabytes_is_refused(
    tmp_path: Path, extractor_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagdeploy.export.graph.PROTOBUF_LIMIT", 100)
    with pytest.raises(ExportError, match="2 GiB"):
        save_graph(onnx.load(extractor_onnx), tmp_path / "large.onnx")
