"""Adam, with weight decay as L2: PyTorch's own arithmetic without its optimiser class.

The class imports PyTorch's compiler when it is first made, seconds in every process, as long
as a small seed takes to train. Its functional form does not, and its state is plain tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parameters that are trained alike."""

    parameters: Sequence[Tensor]
    lr: float
    weight_decay: float


class Adam:
    """Adam over groups of parameters, with their moments (Kingma and Ba, 2015)."""

    def __init__(self, groups: Sequence[Group], *, betas: tuple[float, float], eps: float) -> None:
        self.groups = groups
        self.betas = betas
        self.eps = eps
        parameters = [p for group in groups for p in group.parameters]
        self.means = {p: torch.zeros_like(p) for p in parameters}
        self.squares = {p: torch.zeros_like(p) for p in parameters}
        self.steps = {p: torch.zeros(()) for p in parameters}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.means:
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Move every parameter that has a gradient, at `factor` times its group's rate."""
        for group in self.groups:
            moved = [p for p in group.parameters if p.grad is not None]
            adam(
                moved,
                [p.grad for p in moved if p.grad is not None],
                [self.means[p] for p in moved],
                [self.squares[p] for p in moved],
                [],
                [self.steps[p] for p in moved],
                foreach=False,
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=group.lr * factor,
                weight_decay=group.weight_decay,
                eps=self.eps,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """The moments by name, themselves and no copies: filling them restores the optimiser."""
        kinds = {"mean": self.means, "square": self.squares, "step": self.steps}
        return {
            f"{kind}.{index}": tensor
            for kind, by_parameter in kinds.items()
            for index, tensor in enumerate(by_parameter.values())
        }
