import subprocess
import sys

import pytest
import torch

from sagdeploy.training.adam import Adam, Group

SHAPES = ((3, 4), (4,), (1,))


def parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def set_gradients(tensors: list[torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        tensor.grad = torch.randn(tensor.shape, generator=generator)


def test_steps_are_those_of_the_optimiser_class() -> None:
    own, other = parameters(), parameters()
    groups = [Group(own[:2], lr=0.02, weight_decay=0.1), Group(own[2:], lr=0.3, weight_decay=0.0)]
    adam = Adam(groups, betas=(0.5, 0.9), eps=1e-8)
    reference = torch.optim.Adam(
        [{"params": other[:2], "lr": 0.02, "weight_decay": 0.1}, {"params": other[2:], "lr": 0.3}],
        betas=(0.5, 0.9),
    )
    for seed in range(5):
        set_gradients(own, seed)
        set_gradients(other, seed)
        adam.step()
        reference.step()
    for ours, theirs in zip(own, other, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_factor_scales_every_rate() -> None:
    own, other = parameters(), parameters()
    half = Adam([Group(own, lr=0.2, weight_decay=0.0)], betas=(0.5, 0.9), eps=1e-8)
    whole = Adam([Group(other, lr=0.1, weight_decay=0.0)], betas=(0.5, 0.9), eps=1e-8)
    set_gradients(own, 1)
    set_gradients(other, 1)
    half.step(0.5)
    whole.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(own, other, strict=True))


def test_what_has_no_gradient_stays() -> None:
    own = parameters()
    adam = Adam([Group(own, lr=0.2, weight_decay=0.5)], betas=(0.5, 0.9), eps=1e-8)
    set_gradients(own[:1], 1)
    adam.step()
    assert torch.equal(own[1], parameters()[1])
    assert not torch.equal(own[0], parameters()[0])
    adam.zero_grad()
    assert own[0].grad is None


@pytest.mark.parametrize("steps", [1, 3])
def test_filled_moments_go_on_to_the_same_bits(steps: int) -> None:
    own, other = parameters(), parameters()
    first = Adam([Group(own, lr=0.2, weight_decay=0.5)], betas=(0.5, 0.9), eps=1e-8)
    for seed in range(steps):
        set_gradients(own, seed)
        first.step()
    second = Adam([Group(other, lr=0.2, weight_decay=0.5)], betas=(0.5, 0.9), eps=1e-8)
    with torch.no_grad():
        for ours, theirs in zip(own, other, strict=True):
            theirs.copy_(ours)
    for name, tensor in first.tensors().items():
        second.tensors()[name].copy_(tensor)
    set_gradients(own, 9)
    set_gradients(other, 9)
    first.step()
    second.step()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(own, other, strict=True))


def test_no_step_imports_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from sagdeploy.training.adam import Adam, Group\n"
        "p = torch.ones(2, requires_grad=True)\n"
        "adam = Adam([Group([p], lr=0.1, weight_decay=0.0)], betas=(0.9, 0.99), eps=1e-8)\n"
        "p.sum().backward()\n"
        "adam.step()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
