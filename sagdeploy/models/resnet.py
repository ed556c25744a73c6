"""ResNet18 with instance norm: the extractor of DSMIL, learned by SimCLR on tissue.

He et al., CVPR 2016; Li et al., "Dual-stream multiple instance learning network", CVPR 2021.
The norm has no parameters and no memory, so each tile is normalised by itself.
"""

from collections.abc import Mapping
from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES: Final = 512

STEM: Final = {"0": "conv1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""SimCLR numbers the children of torchvision's ResNet; those with weights, and their names."""

HEADS: Final = ("fc.", "l1.", "l2.")
"""What follows the features in a file: DSMIL's classifier, SimCLR's projection."""


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.InstanceNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.InstanceNorm2d(after)
        self.downsample = nn.Sequential()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.InstanceNorm2d(after)
            )

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        filtered = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(planes)))))
        return F.relu(filtered + self.downsample(planes))


class ResNet18(nn.Module):
    """(N, 3, H, W), RGB in 0 to 1, to the mean of the last feature map, (N, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.InstanceNorm2d(64)
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.layer4 = _stage(256, FEATURES, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """Features of each image; any size from 33 pixels a side will do."""
        planes = F.relu(self.bn1(self.conv1(image)))
        planes = F.max_pool2d(planes, 3, stride=2, padding=1)  # (N, 64, H/4, W/4)
        planes = self.layer4(self.layer3(self.layer2(self.layer1(planes))))
        return planes.mean((2, 3))  # (N, 512, H/32, W/32) -> (N, 512)


def torchvision_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public file's weights under torchvision's names, without what follows the features.

    SimCLR's own files say `features.4.0.conv1.weight`, DSMIL's `feature_extractor.layer1...`.
    The reference maps by position and drops the last four, which of the latter are features.
    """
    plain = {name.removeprefix("feature_extractor."): item for name, item in weights.items()}
    return {_named(name): item for name, item in plain.items() if not name.startswith(HEADS)}


def _named(name: str) -> str:
    first, *rest = name.split(".")
    if first == "features" and rest and rest[0] in STEM:
        return ".".join([STEM[rest[0]], *rest[1:]])
    return name


def _stage(before: int, after: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1))
