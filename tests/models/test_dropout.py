import pytest
import torch

from sagdeploy.models.dropout import Dropout, dropout


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_about_the_share_is_dropped_and_the_mean_is_kept(share: float) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(300, 333), share)
    assert abs((out == 0).float().mean().item() - share) < 0.01
    assert abs(out.mean().item() - 1) < 0.01


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(0)
    x = torch.ones(7, 13, requires_grad=True)
    out = dropout(x, 0.3)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, out.detach())


def test_a_seed_repeats_it() -> None:
    layer = Dropout(0.4)
    torch.manual_seed(5)
    first = layer(torch.ones(50))
    torch.manual_seed(5)
    assert torch.equal(layer(torch.ones(50)), first)


def test_nothing_is_dropped_outside_training_or_for_no_share() -> None:
    x = torch.ones(20)
    assert torch.equal(Dropout(0.9).eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)
