"""The terms of the loss, as pure functions: classification, Eq. 4 and Eq. 5 of the paper.

`guidance_loss` is the paper's, with its means; `reference_loss` is what the public code has
in its place, with sums and factors of its own.

Letters: B bags, S magnifications, L layers, H heads, N tiles, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sagdeploy.config import Guide

ClassLoss = Literal["cross_entropy", "bce"]

REFERENCE_FACTOR = 0.1
"""What the public code multiplies each guidance term with."""

REFERENCE_IN_OUT = 0.01
"""What it multiplies Eq. 5 with besides."""


@dataclass(frozen=True, slots=True)
class GuidanceTerm:
    """One guidance term of a batch."""

    value: Tensor
    """Eq. 4 or Eq. 5."""

    least: Tensor
    """The smallest it could be: 0 for Eq. 4, the mean of -1/p for Eq. 5."""

    maps: int = 1
    """How many attention maps of a bag it is the mean of: magnifications, layers, heads."""


def class_loss(logits: Tensor, targets: Tensor, kind: ClassLoss) -> Tensor:
    """Classification loss, mean over the batch.

    logits:  (B, C)
    targets: class of each bag, int64 (B,), or soft labels (B, C)
    """
    if kind == "cross_entropy":
        return F.cross_entropy(logits, targets)
    if targets.dim() == 1:
        targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets)


def taught_heads(attention: Tensor, share: float) -> Tensor:
    """The first `share` of the heads of each layer, at least one: (B, L, H, N) -> (B, L, h, N)."""
    return attention[:, :, : max(1, int(attention.shape[2] * share + 0.5))]


def squared_distance(attention: Tensor, guidance: Tensor) -> Tensor:
    """Sum over tiles of (W - MA)^2, Eq. 4 before its 1/p: (B, L, H, N) -> (B, L, H)."""
    return (attention - guidance[:, None, None]).square().sum(dim=-1)


def mass_outside(attention: Tensor, guidance: Tensor) -> Tensor:
    """Attention on tiles without guidance; Eq. 5 is (2 * it - 1) / p: (B, L, H, N) -> (B, L, H)."""
    return (attention * (guidance == 0)[:, None, None]).sum(dim=-1)


def guidance_loss(
    guide: Guide,
    attention: Sequence[Tensor],
    guidance: Sequence[Tensor],
    is_tile: Sequence[Tensor],
    share: float,
) -> GuidanceTerm | None:
    """Eq. 4 (`hg`) or Eq. 5 (`tg`) of a batch; None where no bag has guidance.

    Averaged over heads, layers, the magnifications that have guidance, and the bags that
    have any. A bag that lies inside its tissue guidance altogether counts as having none:
    Eq. 5 is constant there.

    attention: one (B, L, H, N) a magnification; the first `share` of the heads is taught
    guidance:  one (B, N) a magnification, rows of zeros where a bag has none
    is_tile:   one bool (B, N) a magnification
    """
    values, least, has = [], [], []
    for looked, wanted, real in zip(attention, guidance, is_tile, strict=True):
        heads, tiles = taught_heads(looked, share), real.sum(dim=1)  # (B, L, h, N), (B,)
        teaches = (wanted > 0).any(dim=1)
        if guide == "hg":
            values.append(squared_distance(heads, wanted).mean(dim=(1, 2)) / tiles)
            least.append(torch.zeros_like(values[-1]))
        else:
            values.append((2 * mass_outside(heads, wanted) - 1).mean(dim=(1, 2)) / tiles)
            least.append(-1 / tiles)
            teaches = teaches & (real & (wanted == 0)).any(dim=1)
        has.append(teaches)
    taught = torch.stack(has)  # (S, B)
    if not taught.any():
        return None
    maps = sum(taught_heads(looked, share)[0, ..., 0].numel() for looked in attention)
    return GuidanceTerm(_mean_of(values, taught), _mean_of(least, taught), maps)


def _mean_of(values: Sequence[Tensor], taught: Tensor) -> Tensor:
    """Mean over a bag's taught magnifications, then over bags: S of (B,), bool (S, B) -> ()."""
    counts = taught.sum(dim=0)
    bags = (torch.stack(tuple(values)) * taught).sum(dim=0) / counts.clamp(min=1)
    return bags.sum() / (counts > 0).sum()


def reference_loss(
    guide: Guide, attention: Sequence[Tensor], guidance: Sequence[Tensor], share: float
) -> Tensor:
    """The same as the public code has it: sums over tiles, heads, layers and magnifications.

    Bags count as guided by their first magnification alone, and 0 stands for no guided bag.
    """
    guided = guidance[0].sum(dim=1) != 0
    total = attention[0].new_zeros(())
    if not guided.any():
        return total
    for looked, wanted in zip(attention, guidance, strict=True):
        heads, wanted = taught_heads(looked[guided], share), wanted[guided]
        if guide == "hg":
            total = total + squared_distance(heads, wanted).sum()
        else:
            inside = heads.sum(dim=-1) - mass_outside(heads, wanted)
            total = total + REFERENCE_IN_OUT * (mass_outside(heads, wanted) - inside).sum()
    return REFERENCE_FACTOR * total / guided.sum()
