"""MobileNetV2: the paper's extractor for melanoma, 1280 features a tile.

Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018. The 314
names of its weights are torchvision's, so that torchvision's files load.
"""

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of the first block: table 2 of that paper."""


class TensorFlowConv(nn.Conv2d):
    """A 3 x 3 convolution of stride 2 that pads right and below only.

    So TensorFlow's SAME padding falls on sides that are even, as they are here where the
    tile's side is a multiple of 32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/2, W/2)."""
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, stride=2, groups=self.groups)


def _normed(
    inputs: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1, tensorflow: bool
) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    kind = TensorFlowConv if tensorflow and stride == 2 else nn.Conv2d
    conv = kind(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; with a shortcut where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, expansion: int, tensorflow: bool
    ) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_normed(inputs, hidden, kernel=1, tensorflow=tensorflow))
        layers.append(
            _normed(hidden, hidden, kernel=3, stride=stride, groups=hidden, tensorflow=tensorflow)
        )
        layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1; `tensorflow` pads as the networks trained there expect."""

    def __init__(self, *, tensorflow: bool = False) -> None:
        super().__init__()
        inputs = 32
        layers: list[nn.Module] = [_normed(3, inputs, kernel=3, stride=2, tensorflow=tensorflow)]
        for expansion, outputs, blocks, stride in STAGES:
            for index in range(blocks):
                layers.append(
                    InvertedResidual(
                        inputs,
                        outputs,
                        stride=stride if index == 0 else 1,
                        expansion=expansion,
                        tensorflow=tensorflow,
                    )
                )
                inputs = outputs
        layers.append(_normed(inputs, FEATURES, kernel=1, tensorflow=tensorflow))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, 1000))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Features of normalised tiles: (N, 3, H, W) -> (N, 1280).

        The classifier has no part in it; it is there because files of weights have it.
        """
        maps: Tensor = self.features(x)  # (N, 1280, H/32, W/32)
        return maps.mean(dim=(2, 3))


def _initialise(module: nn.Module) -> None:
    """Weights that keep the variance through ReLU, for networks without a file of weights."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
