from typing import Any

import pytest
import torch
from torch import Tensor

from sagdeploy.errors import ConfigError
from sagdeploy.models.scatnet import ScAtNet, sinusoid

SMALL: dict[str, Any] = {"features": 10, "classes": 3, "dim": 16, "layers": 2, "heads": 2}


def bags(*tiles: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two bags at as many magnifications; the second lacks the last two tiles of each."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(2, n, 10, generator=generator) for n in tiles]
    return rows, [torch.arange(n) < torch.tensor([[n], [n - 2]]) for n in tiles]


@pytest.mark.parametrize("options", [{}, {"tied": True, "scale_embedding": "learned"}])
@pytest.mark.parametrize("tiles", [(9,), (4, 9, 16)])
def test_padding_changes_nothing(tiles: tuple[int, ...], options: dict[str, Any]) -> None:
    model = ScAtNet(magnifications=len(tiles), **SMALL, **options).eval()
    rows, real = bags(*tiles)
    padded = model(rows, real)
    alone = model([x[1:, :-2] for x in rows], [m[1:, :-2] for m in real])
    torch.testing.assert_close(padded.logits[1:], alone.logits)
    for with_padding, without in zip(padded.attention, alone.attention, strict=True):
        torch.testing.assert_close(with_padding[1:, ..., :-2], without)
        assert (with_padding[1, ..., -2:] == 0).all()


def test_attention_is_of_each_layer_and_head_and_clean_in_training() -> None:
    model = ScAtNet(magnifications=2, **SMALL).train()
    output = model(*bags(4, 9))
    assert [tuple(a.shape) for a in output.attention] == [(2, 2, 2, 4), (2, 2, 2, 9)]
    for attention in output.attention:
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 2, 2))


def test_the_reference_guides_attention_after_dropout() -> None:
    torch.manual_seed(0)
    model = ScAtNet(compat="reference", **SMALL).train()
    attention = model(*bags(9)).attention[0]
    assert (attention.sum(dim=-1) - 1).abs().max() > 0.01


@pytest.mark.parametrize(
    ("sizes", "options", "count"),
    [
        ((1280, 4, 1), {}, 982_340),
        ((1280, 4, 3), {}, 3_376_836),
        ((1280, 4, 3), {"tied": True, "scale_embedding": "learned"}, 1_429_572),
        ((512, 2, 1), {}, 883_906),
    ],
)
def test_it_has_the_parameters_of_the_public_code(
    sizes: tuple[int, int, int], options: dict[str, Any], count: int
) -> None:
    features, classes, magnifications = sizes
    model = ScAtNet(features=features, classes=classes, magnifications=magnifications, **options)
    assert sum(p.numel() for p in model.parameters()) == count


def test_positions_alternate_sine_and_cosine() -> None:
    codes = sinusoid(7, 6, torch.zeros(()))
    torch.testing.assert_close(codes[3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(codes[3, 5], torch.tensor(3 / 10_000 ** (4 / 6)).cos())


def test_the_order_of_tiles_matters() -> None:
    model = ScAtNet(**SMALL).eval()
    rows, real = bags(9)
    turned = model([rows[0][:1].flip(1)], [real[0][:1]])
    assert not torch.allclose(turned.logits, model([rows[0][:1]], [real[0][:1]]).logits)


def test_tied_weights_are_kept_once_and_load_from_copies() -> None:
    model = ScAtNet(magnifications=2, tied=True, **SMALL)
    state = model.state_dict()
    assert not any("scale_wise_attn.scale_1" in name for name in state)
    copies = {k.replace("scale_0", "scale_1"): v for k, v in state.items() if "scale_0" in k}
    tables = {"scale_wise_attn.scale_0.pos_emb.pe": torch.zeros(1, 5000, 16)}
    ScAtNet(magnifications=2, tied=True, **SMALL).load_state_dict(state | copies | tables)


@pytest.mark.parametrize(
    "options",
    [{"heads": 3}, {"layers": 0}, {"dropout": 1}, {"compat": "both"}, {"scale_embedding": "no"}],
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="scatnet"):
        ScAtNet(**(SMALL | options))
