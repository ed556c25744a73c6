from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sagdeploy.errors import ConfigError
from sagdeploy.models import abmil
from sagdeploy.models.abmil import Abmil, Kind

KINDS: tuple[Kind, ...] = ("relu", "tanh", "gated")


def bag(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: Kind) -> None:
    model = Abmil(features=12, classes=3, kind=kind).eval()
    rows, real = bag(2, 9, 12), torch.arange(9) < torch.tensor([[9], [5]])
    padded = model([rows], [real])
    alone = model([rows[1:, :5]], [real[1:, :5]])
    torch.testing.assert_close(padded.logits[1:], alone.logits)
    torch.testing.assert_close(padded.attention[0][1:, ..., :5], alone.attention[0])
    assert (padded.attention[0][1, ..., 5:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_sums_to_one_at_each_magnification(kind: Kind) -> None:
    model = Abmil(features=12, classes=3, magnifications=2, kind=kind, project=7)
    rows = [bag(2, 5, 12), bag(2, 17, 12, seed=1)]
    output = model(rows, [torch.ones(x.shape[:2], dtype=torch.bool) for x in rows])
    assert output.logits.shape == (2, 3)
    assert [tuple(a.shape) for a in output.attention] == [(2, 1, 1, 5), (2, 1, 1, 17)]
    for attention in output.attention:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 1, 1))


def test_a_bag_is_the_weighted_mean_of_its_raw_features() -> None:
    model = Abmil(features=6, classes=2)
    rows = bag(1, 4, 6)
    output = model([rows], [torch.ones(1, 4, dtype=torch.bool)])
    hidden = torch.relu(model.get_submodule("attention.0")(rows))
    weights = torch.softmax(model.get_submodule("attention.2")(hidden)[..., 0], dim=1)
    torch.testing.assert_close(output.attention[0][:, 0, 0], weights)
    torch.testing.assert_close(output.logits, model.classifier(weights @ rows[0]))


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_gradients_are_those_of_its_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(abmil, "BLOCK_ROWS", 5)
    torch.manual_seed(1)
    score = abmil.ReluScore(6, 9)
    features, slope = bag(1, rows, 6).requires_grad_(), bag(1, rows, 1, seed=2)
    leaves = [features, *score.parameters()]
    answers = []
    for answer in (score(features), nn.Sequential(*score)(features)):
        answers.append([answer, *torch.autograd.grad(answer, leaves, slope)])
    for ours, plain in zip(*answers, strict=True):
        torch.testing.assert_close(ours, plain)


def test_without_gradients_it_scores_the_same() -> None:
    score, features = abmil.ReluScore(6, 9), bag(2, 7, 6)
    with torch.no_grad():
        answer = score(features)
    torch.testing.assert_close(answer, score(features).detach())


@pytest.mark.parametrize(
    ("features", "classes", "count"), [(512, 2, 264_195), (1280, 4, 1_646_085)]
)
def test_it_has_the_parameters_of_the_public_code(features: int, classes: int, count: int) -> None:
    assert sum(p.numel() for p in Abmil(features=features, classes=classes).parameters()) == count


@pytest.mark.parametrize(
    "options", [{"kind": "softplus"}, {"hidden": -1}, {"project": -2}, {"dropout": 1.0}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="abmil"):
        Abmil(features=6, classes=2, **options)
