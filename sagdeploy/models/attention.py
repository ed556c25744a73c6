"""What every diagnosis model takes and returns, and the softmax that knows its padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A diagnosis model's answer for a batch of bags."""

    logits: Tensor
    """(B, C)"""

    attention: tuple[Tensor, ...]
    """One (B, L, H, N) a magnification, before dropout; each row sums to 1 over real tiles."""


class DiagnosisModel(Protocol):
    """Any attention model that can be trained, guided, exported and served.

    Its constructor takes `features` (E), `classes` (C) and `magnifications` (S) as keywords,
    and any options of its own.
    """

    def __call__(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """Diagnose a batch of bags.

        features: one (B, N, E) a magnification; N may differ between magnifications
        is_tile:  one bool (B, N) a magnification; false where the row is padding
        """
        ...


def masked_softmax(scores: Tensor, is_tile: Tensor) -> Tensor:
    """Softmax over the last axis that gives padding no weight at all.

    scores:  (..., N)
    is_tile: bool, broadcastable to (..., N)
    """
    return torch.softmax(scores.masked_fill(~is_tile, float("-inf")), dim=-1)
