"""Dropout whose random numbers cost a byte each on a CPU.

PyTorch draws four bytes or more an entry there, which is a quarter of a training step of
ScAtNet. The price: the share that is dropped is a whole number of 256ths, 51/256 for 0.2.
What is kept is scaled by the true share, so the expectation is exact.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with about `share` of its entries zeroed and the others scaled up; any shape."""
    if not share or x.device.type != "cpu":
        return F.dropout(x, share)
    cut = min(max(1, round(share * 256)), 255)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
    # written as numbers at once: by way of bool it takes 15 times as long
    kept = torch.ge(drawn, cut, out=torch.empty_like(x, requires_grad=False))
    return x * kept.mul_(256 / (256 - cut))


class Dropout(nn.Module):
    """Dropout in training, nothing otherwise."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x` is kept."""
        return dropout(x, self.share) if self.training else x
