"""ResNet18 with instance normalisation: DSMIL's SimCLR extractor, 512 features a tile.

Li et al., "Dual-stream multiple instance learning network for whole slide image
classification with self-supervised contrastive learning", CVPR 2021. Its norms have no
parameters and take their statistics from the tile itself, in training and after. Weights
have torchvision's names; `own_names` translates those of DSMIL's two kinds of file.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 512
WIDTHS = (64, 128, 256, 512)
Value = TypeVar("Value")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Sequential()
        if stride != 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.InstanceNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.instance_norm(self.conv2(y))
        return F.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet18 without a classifier, each norm an instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        inputs = WIDTHS[0]
        for index, width in enumerate(WIDTHS):
            first = BasicBlock(inputs, width, stride=1 if index == 0 else 2)
            self.add_module(f"layer{index + 1}", nn.Sequential(first, BasicBlock(width, width, 1)))
            inputs = width
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Features of tiles scaled to [0, 1]: (N, 3, H, W) -> (N, 512)."""
        x = _pooled(F.instance_norm(self.conv1(x)))
        for index in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return x.mean(dim=(2, 3))


def _pooled(x: Tensor) -> Tensor:
    """Pooling and ReLU: (N, C, H, W) -> (N, C, H/2, W/2).

    In the order that leaves ReLU a quarter of the work. As volumes one layer deep, because ONNX
    Runtime brings flat images into another layout to pool them, and back: twice the pooling's time.
    """
    pooled = F.max_pool3d(x.unsqueeze(2), (1, 3, 3), (1, 2, 2), (0, 1, 1))  # (N, C, 1, H/2, W/2)
    return F.relu(pooled.squeeze(2))


def own_names(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Weights under our names, whichever of DSMIL's files they come from.

    A SimCLR file (`model.pth`, `embedder.pth`) counts the layers of a sequence and ends in
    a projection head; a file that its feature extraction wrote has a prefix and a classifier.
    Heads are left out; matching is by name, never by position.
    """
    named = {}
    for name, value in weights.items():
        name = name.removeprefix("feature_extractor.")
        name = re.sub(r"^features\.0\.", "conv1.", name)
        name = re.sub(r"^features\.([4-7])\.", lambda m: f"layer{int(m[1]) - 3}.", name)
        if not re.match(r"(l1|l2|fc)\.", name):
            named[name] = value
    return named


def _initialise(module: nn.Module) -> None:
    """Weights that keep the variance through ReLU, for networks without a file of weights."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
