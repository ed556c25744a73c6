"""Features centred and scaled as those of the training tiles, inside the model itself."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from sagdeploy.models.attention import ModelOutput

SMALLEST = 1e-6
"""Deviation, relative to the mean, below which a feature counts as constant and is not scaled."""


class Standardised(nn.Module):
    """A diagnosis model that is given each feature with mean 0 and deviation 1.

    Mean and deviation are buffers: they are saved with the weights and exported with the
    graph, so that a client hands in the extractor's features as they are.
    """

    mean: Tensor
    """(E,)"""

    deviation: Tensor
    """(E,)"""

    def __init__(self, model: nn.Module, *, features: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """Diagnose a batch of bags; see `models.attention.DiagnosisModel`."""
        scaled = [(each - self.mean) / self.deviation for each in features]
        output: ModelOutput = self.model(scaled, is_tile)
        return output

    def fit(self, bags: Callable[[], Iterable[Sequence[Tensor]]]) -> None:
        """Take mean and deviation over all tiles of some bags.

        bags: each bag's features, one (N, E) a magnification, once more with every call
        """
        mean = _mean(each.double() for bag in bags() for each in bag)
        variance = _mean((each.double() - mean).square() for bag in bags() for each in bag)
        deviation = variance.sqrt()
        varies = deviation > SMALLEST * (1 + mean.abs())
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(varies, deviation, torch.ones_like(deviation)))


def _mean(features: Iterable[Tensor]) -> Tensor:
    """Mean over the rows of all (N, E)."""
    sums = torch.zeros((), dtype=torch.float64)
    rows = 0
    for each in features:
        sums = sums + each.sum(dim=0)
        rows += len(each)
    return sums / rows
