import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sagdeploy.config import GuidanceSettings
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.attention import ModelOutput
from sagdeploy.training.loss import REACH, GuidedLoss, LossParts, UncertaintyWeights
from sagdeploy.training.terms import (
    class_loss,
    guidance_loss,
    mass_outside,
    reference_loss,
    squared_distance,
    taught_heads,
)

TILES = 5
REAL = [torch.tensor([[True] * 5, [True, True, True, False, False], [True] * 5])]
GUIDANCE = [
    torch.tensor([[0.0, 0.25, 0.75, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 5]),
]
"""The first two of three bags are guided; the second has two rows of padding."""


def attention(layers: int = 2, heads: int = 4, seed: int = 0) -> list[Tensor]:
    scores = torch.randn(
        (3, layers, heads, TILES), generator=torch.Generator().manual_seed(seed)
    ).masked_fill(~REAL[0][:, None, None], float("-inf"))
    return [scores.softmax(dim=-1)]


def output(heads: int = 4) -> ModelOutput:
    logits = torch.tensor([[0.3, -0.2], [0.1, 0.9], [-1.0, 0.4]], requires_grad=True)
    return ModelOutput(logits, tuple(attention(heads=heads)))


def cost(loss: GuidedLoss, answer: ModelOutput, guidance: list[Tensor] = GUIDANCE) -> LossParts:
    parts: LossParts = loss(
        answer,
        torch.tensor([0, 1, 1]),
        REAL,
        heuristic_guidance=guidance,
        tissue_guidance=guidance,
    )
    return parts


def test_equation_4_is_the_mean_squared_distance_over_real_tiles() -> None:
    looked = attention(layers=1, heads=1)
    term = guidance_loss("hg", looked, GUIDANCE, REAL, 1.0)
    assert term is not None
    first = (looked[0][0, 0, 0] - GUIDANCE[0][0]).square().sum() / 5
    second = (looked[0][1, 0, 0] - GUIDANCE[0][1]).square().sum() / 3
    torch.testing.assert_close(term.value, (first + second) / 2)
    assert term.least == 0


def test_equation_5_is_attention_outside_minus_inside() -> None:
    looked = attention(layers=1, heads=1)
    term = guidance_loss("tg", looked, GUIDANCE, REAL, 1.0)
    assert term is not None
    first, second = looked[0][:2, 0, 0]
    outside_first = first[0] + first[3] + first[4] - first[1] - first[2]
    outside_second = second[1] + second[2] - second[0]
    torch.testing.assert_close(term.value, (outside_first / 5 + outside_second / 3) / 2)
    torch.testing.assert_close(term.least, torch.tensor(-(1 / 5 + 1 / 3) / 2))


def test_terms_are_averaged_over_layers_taught_heads_and_guided_magnifications() -> None:
    looked = attention()
    half = guidance_loss("hg", looked, GUIDANCE, REAL, 0.5)
    singles = [
        guidance_loss("hg", [looked[0][:, layer : layer + 1, head : head + 1]], GUIDANCE, REAL, 1)
        for layer in range(2)
        for head in range(2)
    ]
    assert half is not None
    mean = torch.stack([single.value for single in singles if single]).mean()
    torch.testing.assert_close(half.value, mean)
    assert half.maps == 4

    nowhere = torch.zeros(3, TILES)
    two = guidance_loss("hg", looked * 2, [*GUIDANCE, nowhere], REAL * 2, 0.5)
    assert two is not None
    torch.testing.assert_close(two.value, half.value)


@pytest.mark.parametrize(("heads", "share", "taught"), [(4, 0.5, 2), (1, 0.5, 1), (5, 0.1, 1)])
def test_at_least_one_head_and_the_first_ones_are_taught(
    heads: int, share: float, taught: int
) -> None:
    looked = attention(heads=heads)[0]
    assert torch.equal(taught_heads(looked, share), looked[:, :, :taught])


def test_a_batch_without_guidance_has_no_term() -> None:
    nothing = [torch.zeros(3, TILES)]
    assert guidance_loss("hg", attention(), nothing, REAL, 1.0) is None
    assert guidance_loss("tg", attention(), nothing, REAL, 1.0) is None


def test_tissue_everywhere_teaches_nothing() -> None:
    everywhere = [REAL[0] / REAL[0].sum(dim=1, keepdim=True)]
    assert guidance_loss("tg", attention(), everywhere, REAL, 1.0) is None


@pytest.mark.parametrize("options", [{"terms": ()}, {"terms": ("hg", "tg"), "weight": 0.0}])
def test_without_guidance_the_loss_is_the_classification_bit_for_bit(
    options: dict[str, Any],
) -> None:
    loss, answer = GuidedLoss(GuidanceSettings(**options)), output()
    parts = cost(loss, answer)
    assert torch.equal(
        parts.total, class_loss(answer.logits, torch.tensor([0, 1, 1]), "cross_entropy")
    )
    assert not list(loss.parameters())
    assert (parts.hg is None) == (not options["terms"])


def test_absent_guidance_masks_the_term_and_its_uncertainty() -> None:
    loss = GuidedLoss(GuidanceSettings(terms=("hg", "tg")))
    cost(loss, output())
    parts = cost(loss, output(), [torch.zeros(3, TILES)])
    assert parts.hg is None
    assert parts.tg is None
    assert loss.weighting is not None
    variances = loss.weighting.log_variance
    (gradient,) = torch.autograd.grad(parts.total, variances)
    assert gradient[0] != 0
    assert (gradient[1:] == 0).all()
    expected = parts.classification * parts.weights[0] + variances[0] / 2
    torch.testing.assert_close(parts.total, expected)


def test_the_total_is_kendalls_sum_with_each_map_an_observation() -> None:
    loss = GuidedLoss(GuidanceSettings(terms=("hg", "tg"), weight=0.5))
    parts = cost(loss, output())
    assert loss.weighting is not None
    s = loss.weighting.log_variance
    assert parts.hg is not None
    assert parts.tg is not None
    shifted = parts.tg + (1 / 5 + 1 / 3) / 2
    torch.testing.assert_close(
        parts.total,
        parts.classification / (2 * s[0].exp())
        + s[0] / 2
        + 0.5 * 4 * (parts.hg / (2 * s[1].exp()) + s[1] / 2)
        + 0.5 * 8 * (shifted / (2 * s[2].exp()) + s[2] / 2),
    )


def test_terms_start_at_equal_strength_however_small_they_are() -> None:
    loss = GuidedLoss(GuidanceSettings(terms=("hg",)))
    parts = cost(loss, output(heads=1))
    assert parts.hg is not None
    torch.testing.assert_close(parts.weights[0], torch.tensor(0.5 / math.log(2)))
    torch.testing.assert_close(parts.weights[1] * parts.hg, torch.tensor(0.5 * 2))  # two layers


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e3])
def test_log_variances_stay_within_reach_of_their_start(value: float) -> None:
    weighting = UncertaintyWeights(1)
    here = torch.tensor([True])
    weighting(torch.ones(1), here, torch.tensor([0.01]))
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.1)
    for _ in range(100):
        terms, _ = weighting(torch.tensor([value]), here, torch.tensor([value]))
        optimizer.zero_grad()
        torch.autograd.backward(terms.sum())
        optimizer.step()
    weighting(torch.ones(1), here, torch.ones(1))
    away = (weighting.log_variance - math.log(0.01)).item()
    assert abs(abs(away) - REACH) < 1e-5


def test_evaluation_leaves_the_log_variances_alone() -> None:
    loss = GuidedLoss(GuidanceSettings(terms=("hg",))).eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    cost(loss, output())
    for name, value in loss.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_equal_weighting_is_the_plain_sum() -> None:
    loss = GuidedLoss(GuidanceSettings(terms=("hg",), weighting="equal", weight=3.0))
    parts = cost(loss, output(heads=1))
    assert parts.hg is not None
    torch.testing.assert_close(parts.total, parts.classification + 3 * parts.hg)


def test_the_reference_sums_and_looks_at_the_first_magnification_only() -> None:
    looked = attention()
    value = reference_loss("hg", looked, GUIDANCE, 0.5)
    expected = squared_distance(looked[0][:2, :, :2], GUIDANCE[0][:2]).sum() / 2 * 0.1
    torch.testing.assert_close(value, expected)
    in_out = reference_loss("tg", looked, GUIDANCE, 1.0)
    outside = mass_outside(looked[0][:2], GUIDANCE[0][:2])
    torch.testing.assert_close(in_out, 0.001 * (2 * outside - 1).sum() / 2)
    unguided_first = reference_loss("hg", looked * 2, [torch.zeros(3, TILES), *GUIDANCE], 0.5)
    assert unguided_first == 0


def test_soft_labels_and_classes_agree() -> None:
    logits = output().logits
    classes, soft = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    for kind in ("cross_entropy", "bce"):
        torch.testing.assert_close(
            class_loss(logits, classes, kind), class_loss(logits, soft, kind)
        )


def toy_bags(count: int, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Bags of 30 to 60 tiles of which, in every other bag, the first few show a tumour."""
    generator = torch.Generator().manual_seed(seed)
    tumour = torch.zeros(32)
    tumour[5] = 3.0
    bags = []
    for index in range(count):
        tiles = int(torch.randint(30, 61, (1,), generator=generator))
        features, guidance = torch.randn(tiles, 32, generator=generator), torch.zeros(tiles)
        if index % 2:
            features[: tiles // 10] += tumour
            guidance[: tiles // 10] = 1 / (tiles // 10)
        bags.append((features[None], torch.tensor([index % 2]), guidance[None]))
    return bags


def attention_on_tumours(model: Abmil) -> float:
    """Share of the attention that falls on tumours which training has not seen."""
    shares = []
    with torch.no_grad():
        for features, _, guidance in toy_bags(20, seed=3)[1::2]:
            looked = model([features], [torch.ones(features.shape[:2], dtype=torch.bool)])
            shares.append(float(looked.attention[0][0, 0, 0] @ (guidance[0] > 0).float()))
    return sum(shares) / len(shares)


def test_guidance_moves_attention_within_some_epochs() -> None:
    torch.manual_seed(0)
    model, loss = Abmil(features=32, classes=2), GuidedLoss(GuidanceSettings(terms=("hg",)))
    optimizer = torch.optim.Adam(
        [
            {"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 5e-3},
            {"params": list(loss.parameters()), "lr": 1e-2},
        ],
        betas=(0.5, 0.9),
    )
    before = attention_on_tumours(model)
    bags = toy_bags(16, seed=2)
    for features, label, guidance in bags * 15:
        real, wanted = [torch.ones(features.shape[:2], dtype=torch.bool)], [guidance]
        answer = model([features], real)
        parts = loss(answer, label, real, heuristic_guidance=wanted, tissue_guidance=wanted)
        optimizer.zero_grad()
        torch.autograd.backward(parts.total)
        optimizer.step()
    assert attention_on_tumours(model) > 2.5 * before
