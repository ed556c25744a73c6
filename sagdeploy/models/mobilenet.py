"""MobileNetV2 with torchvision's names of parameters, for its pooled features.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018.
"""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES: Final = 1280

STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block: the paper's Table 2."""


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 that pads as TensorFlow does: right and below alone.

    So it is where height and width are even; at odd ones TensorFlow pads all around.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/2, W/2)."""
        return super().forward(F.pad(input, (0, 1, 0, 1)))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, before: int, after: int, *, stride: int, expansion: int, same: bool) -> None:
        super().__init__()
        hidden = before * expansion
        widen = [_convolution(before, hidden, kernel=1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            _convolution(hidden, hidden, stride=stride, groups=hidden, same=same),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.adds = stride == 1 and before == after

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        filtered: Tensor = self.conv(planes)
        return planes + filtered if self.adds else filtered


class MobileNetV2(nn.Module):
    """(N, 3, H, W), normalised, to the mean of the last feature map, (N, 1280).

    The classifier is there so that weights load strictly; it is not computed.
    """

    def __init__(self, *, same: bool = False) -> None:
        """same: pad as TensorFlow does, for weights that were trained there."""
        super().__init__()
        blocks: list[nn.Module] = [_convolution(3, 32, stride=2, same=same)]
        before = 32
        for expansion, after, repeats, stride in STAGES:
            for block in range(repeats):
                step = stride if block == 0 else 1
                blocks.append(
                    InvertedResidual(before, after, stride=step, expansion=expansion, same=same)
                )
                before = after
        self.features = nn.Sequential(*blocks, _convolution(before, FEATURES, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, 1000))

    def forward(self, image: Tensor) -> Tensor:
        """Features of each image; any size will do."""
        planes: Tensor = self.features(image)  # (N, 1280, H/32, W/32)
        return planes.mean((2, 3))


def _convolution(
    before: int,
    after: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    same: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    conv: nn.Conv2d
    if same and stride == 2:
        conv = SameConv2d(before, after, kernel, stride, groups=groups, bias=False)
    else:
        padding = kernel // 2
        conv = nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6(inplace=True))
