"""ABMIL: a bag is the attention-weighted mean of its tiles (Eq. 2 of the paper).

Ilse et al., "Attention-based deep multiple instance learning", ICML 2018. The default is
the form that the SAG paper's public code trains, with its names of parameters: ReLU, and as
many hidden units as features. `tanh` and `gated` are the original's, with 128.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sagdeploy.errors import ConfigError
from sagdeploy.models.attention import ModelOutput
from sagdeploy.models.dropout import Dropout
from sagdeploy.models.pooling import attention_pool

Kind = Literal["relu", "tanh", "gated"]

BLOCK_ROWS = 1024
"""Tiles whose gradients are made at once; 512 hidden units each are about a CPU's cache."""


class GatedScore(nn.Module):
    """One score a tile, tanh gated by a sigmoid: (B, N, E) -> (B, N, 1)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(features, hidden)
        self.gate = nn.Linear(features, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, 1)."""
        gated = torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features))
        score: Tensor = self.score(gated)
        return score


class ReluScore(nn.Sequential):
    """One score a tile, of hidden units that are not negative: (B, N, E) -> (B, N, 1).

    A bag of 15,000 tiles has 30 MB of hidden units. What PyTorch does with them between its
    two products of matrices is a sixth of a training step, so their gradient is made here.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, E) -> (B, N, 1)."""
        parts = (self.get_parameter(name) for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        weight, bias, value, offset = parts
        if not torch.is_grad_enabled():
            return F.linear(F.linear(features, weight, bias).relu(), value, offset)
        rows = features.flatten(0, 1)
        scores: Tensor = ReluScoring.apply(rows, weight, bias, value[0])  # type: ignore[no-untyped-call]
        return (scores + offset).reshape(*features.shape[:2], 1)


class ReluScoring(torch.autograd.Function):
    """relu(x W' + b) v for rows x, some rows at a time on the way back.

    x: (M, E)  W: (H, E)  b, v: (H,)
    returns: (M,)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, value: Tensor) -> Tensor:
        """The scores."""
        hidden = torch.addmm(bias, x, weight.T).relu_()  # (M, H)
        ctx.save_for_backward(x, weight, value, hidden)
        return hidden @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what `forward` takes; slope: (M,)."""
        x, weight, value, hidden = ctx.saved_tensors
        by_weight, by_bias = torch.zeros_like(weight.T), torch.zeros_like(value)
        by_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        for start in range(0, len(x), BLOCK_ROWS):
            some = slice(start, start + BLOCK_ROWS)
            inner = hidden[some].sign().mul_(slope[some, None]).mul_(value)  # (R, H)
            by_weight.addmm_(x[some].T, inner)
            by_bias += inner.sum(dim=0)
            if by_x is not None:
                torch.mm(inner, weight, out=by_x[some])
        return by_x, by_weight.T, by_bias, hidden.T @ slope


class Abmil(nn.Module):
    """Attention-based multiple instance learning.

    With several magnifications each has its own attention, which sums to 1 over its own
    tiles, by the same weights; the pooled vectors are averaged. So a magnification of many
    tiles does not drown one of few, and the parameters are those of a single one.
    """

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        magnifications: int = 1,
        kind: Kind = "relu",
        hidden: int = 0,
        project: int = 0,
        dropout: float = 0.0,
    ) -> None:
        """Raises ConfigError for an unknown kind or senseless sizes.

        hidden:  hidden units of the attention; 0 for as many as features (relu) or 128
        project: width to which features are first projected; 0 to pool them as they are
        dropout: share of the (projected) features dropped in training
        """
        super().__init__()
        if min(hidden, project) < 0 or not 0 <= dropout < 1:
            raise ConfigError(f"abmil: hidden {hidden}, project {project}, dropout {dropout}")
        width = project or features
        self.magnifications = magnifications
        self.projection = nn.Sequential()
        if project:
            self.projection = nn.Sequential(nn.Linear(features, project), nn.ReLU())
        self.dropout = Dropout(dropout)
        self.attention = _attention(kind, width, hidden or (width if kind == "relu" else 128))
        self.classifier = nn.Sequential(nn.Linear(width, classes))

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """Diagnose a batch of bags.

        features: one (B, N, E) a magnification
        is_tile:  one bool (B, N) a magnification
        """
        pooled, attention = [], []
        for rows, real in zip(features, is_tile, strict=True):
            rows = self.dropout(self.projection(rows))  # (B, N, width)
            mean, looked = attention_pool(rows, self.attention(rows), real)
            pooled.append(mean)
            attention.append(looked[:, None, None])  # (B, 1, 1, N)
        bag = pooled[0] if len(pooled) == 1 else torch.stack(pooled).mean(dim=0)  # (B, width)
        return ModelOutput(self.classifier(bag), tuple(attention))


def _attention(kind: str, features: int, hidden: int) -> nn.Module:
    """What scores tiles: (B, N, E) -> (B, N, 1)."""
    if kind == "gated":
        return GatedScore(features, hidden)
    if kind == "relu":
        return ReluScore(features, hidden)
    if kind != "tanh":
        raise ConfigError(f"abmil: kind {kind!r}: relu, tanh or gated")
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
