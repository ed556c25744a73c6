import itertools

import pytest
import torch
from torch import Tensor

from sagdeploy.models import self_attention
from sagdeploy.models.self_attention import AttentionRule, SelfAttention, attend

EQ_1 = AttentionRule(scale=6**-0.5)


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of 2 bags, 3 heads, 11 tiles and 6 channels."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn((3, 2, 3, 11, 6), generator=generator)
    query, key, value = (part.clone().requires_grad_() for part in whole)
    return query, key, value


def real(*counts: int, tiles: int = 11) -> Tensor:
    return torch.arange(tiles) < torch.tensor(counts).unsqueeze(1)


def test_it_is_equation_1() -> None:
    query, key, value = parts()
    seen, mean = attend(query, key, value, real(11, 11), EQ_1)
    attention = torch.softmax(query @ key.mT / 6**0.5, dim=-1)
    torch.testing.assert_close(seen, attention @ value)
    torch.testing.assert_close(mean, attention.mean(dim=2))  # over queries; over keys it is 1/p


def test_the_mean_sums_to_one_over_real_tiles_and_differs_among_them() -> None:
    _, mean = attend(*parts(), real(11, 7), EQ_1)
    torch.testing.assert_close(mean.sum(dim=-1), torch.ones(2, 3))
    assert (mean[1, :, 7:] == 0).all()
    assert mean[0].std() > 0.01


def test_padding_changes_nothing() -> None:
    query, key, value = parts()
    padded = attend(query, key, value, real(11, 7), EQ_1)
    query, key, value = (part[1:, :, :7] for part in (query, key, value))
    alone = attend(query, key, value, real(7, tiles=7), EQ_1)
    for got, expected in zip(padded, alone, strict=True):
        torch.testing.assert_close(got[1:, :, :7], expected)


@pytest.mark.parametrize("counted", [False, True])
def test_blocks_of_queries_agree_with_the_whole_map(
    monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    rule = AttentionRule(scale=0.4, dropout=0.0, count_dropped=counted)
    answers = []
    for entries in (1 << 20, 2 * 3 * 11 * 4):  # the whole map; four queries at a time
        monkeypatch.setattr(self_attention, "CPU_BLOCK_ENTRIES", entries)
        leaves = parts()
        seen, mean = attend(*leaves, real(11, 7), rule)
        gradients = torch.autograd.grad(seen.square().sum() + mean.pow(3).sum(), leaves)
        answers.append([seen, mean, *gradients])
    for whole, blocks in zip(*answers, strict=True):
        torch.testing.assert_close(blocks, whole)


def test_blocks_draw_the_same_dropout_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_attention, "CPU_BLOCK_ENTRIES", 2 * 3 * 11 * 4)
    query, key, value = parts()
    torch.manual_seed(0)
    seen, _ = attend(query, key, value, real(11, 11), AttentionRule(0.4, dropout=0.5))
    (gradient,) = torch.autograd.grad(seen.sum(), value)
    # d(sum of seen)/d(value) is what each key was given, which the values' sum reveals
    torch.testing.assert_close((gradient * value).sum(), seen.sum())


def test_dropout_is_counted_only_as_the_public_code_does() -> None:
    means = []
    for counted in (False, True):
        torch.manual_seed(0)
        rule = AttentionRule(1.0, dropout=0.5, count_dropped=counted)
        means.append(attend(*parts(), real(11, 11), rule)[1])
    torch.testing.assert_close(means[0].sum(dim=-1), torch.ones(2, 3))
    assert (means[1].sum(dim=-1) - 1).abs().max() > 0.05


def test_the_order_of_the_fused_projection_is_query_key_value() -> None:
    layer = SelfAttention(8, 2, 0.0, compat=False)
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    whole = layer.kqv(x)  # (1, 5, 24)
    for (part, projected), head in itertools.product(enumerate(layer.project(x)), range(2)):
        expected = whole[:, :, 8 * part + 4 * head : 8 * part + 4 * head + 4]
        torch.testing.assert_close(projected[:, head], expected)


def test_the_reference_does_not_divide_by_the_root() -> None:
    assert SelfAttention(8, 2, 0.0, compat=True).scale == 1
    assert SelfAttention(8, 2, 0.0, compat=False).scale == 0.5
