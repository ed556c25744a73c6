"""Labelled bags together, padded for a model and its loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagdeploy.training.dataset import LabelledBag


@dataclass(frozen=True, slots=True, eq=False)
class BagBatch:
    """Bags padded to the longest, ready for a model and its loss; one entry a magnification."""

    slide_ids: tuple[str, ...]
    labels: Tensor
    """(B,)"""

    targets: Tensor
    """What the model is taught: the labels, or (B, C) where a bag has a soft one."""

    features: tuple[Tensor, ...]
    """(B, N, E)"""

    is_tile: tuple[Tensor, ...]
    """bool (B, N), false where the row is padding"""

    heuristic_guidance: tuple[Tensor, ...]
    """(B, N)"""

    tissue_guidance: tuple[Tensor, ...]
    """(B, N)"""


def collate(bags: Sequence[LabelledBag]) -> BagBatch:
    """A batch of bags, padded with zeros to the longest; a single bag is not copied."""
    labels = torch.tensor([bag.label for bag in bags])
    return BagBatch(
        slide_ids=tuple(bag.slide_id for bag in bags),
        labels=labels,
        targets=_targets(labels, [bag.soft_label for bag in bags]),
        features=_padded([bag.features for bag in bags]),
        is_tile=_padded([tuple(_all_true(f) for f in bag.features) for bag in bags]),
        heuristic_guidance=_padded([bag.heuristic_guidance for bag in bags]),
        tissue_guidance=_padded([bag.tissue_guidance for bag in bags]),
    )


def _targets(labels: Tensor, soft_labels: Sequence[tuple[float, ...]]) -> Tensor:
    """The labels (B,) themselves, or (B, C) with shares of 1 for the bags without soft ones."""
    classes = max(map(len, soft_labels))
    if not classes:
        return labels
    targets = torch.nn.functional.one_hot(labels, classes).float()  # (B, C)
    for row, shares in zip(targets, soft_labels, strict=True):
        if shares:
            row.copy_(torch.tensor(shares))
    return targets


def _padded(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """One (B, N, ...) a magnification, of B tuples of (n, ...)."""
    if len(rows) == 1:
        return tuple(each.unsqueeze(0) for each in rows[0])
    columns = zip(*rows, strict=True)
    return tuple(torch.nn.utils.rnn.pad_sequence(list(each), batch_first=True) for each in columns)


def _all_true(features: Tensor) -> Tensor:
    return torch.ones(len(features), dtype=torch.bool)
