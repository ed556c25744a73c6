"""A fixed bank of filters for H&E: what nuclei look like, without a learned weight.

It stands in where weights cannot be had, as offline in the demonstration. It knows stains,
nuclei and their chromatin, at the 0.5 microns per pixel for which its scales are chosen;
it is no match for a network trained on tissue.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAINS: Final = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Absorption of red, green and blue light by haematoxylin, eosin and whatever else (Ruifrok
and Johnston, "Quantification of histochemical staining by color deconvolution", 2001)."""

FEATURES: Final = 60

LEVELS: Final = 4
"""Resolutions at which blobs are sought, each half of the one before."""

NUCLEAR: Final = (0.9, 8.0)
"""Concentration of haematoxylin at which a pixel is as likely nucleus as not, and how fast
that changes."""

FLOOR: Final = 0.02
"""Added to energies before their logarithm, so that glass has one."""

LIMIT: Final = 6.0
"""Largest feature: what lies farther from tissue is glass, dirt or ink, and all the same."""


class StainTexture(nn.Module):
    """Stains, sizes and darkness of blobs, chromatin and direction: (N, 3, H, W) -> (N, E).

    RGB in 0 to 1. Energies are logarithms, so that a linear model sees their ratios, which do
    not change with the strength of the stain.
    """

    unmix: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        absorption = nn.functional.normalize(torch.tensor(STAINS), dim=1)
        self.register_buffer("unmix", torch.linalg.inv(absorption).T[:2, :, None, None])
        self.register_buffer("centre", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        """Features of each image; any size will do."""
        density = -torch.log(image.clamp(min=1 / 255))  # (N, 3, H, W)
        stains = F.relu(F.conv2d(density, self.unmix))  # (N, 2, H, W)
        nuclear = torch.sigmoid(NUCLEAR[1] * (stains[:, :1] - NUCLEAR[0]))  # (N, 1, H, W)
        features = torch.cat(
            [
                _moments(density),
                _moments(stains),
                _within(stains[:, :1], nuclear),
                _blobs(stains, nuclear),
                _direction(stains),
            ],
            dim=1,
        )  # (N, E)
        return ((features - self.centre) / self.spread).clamp(-LIMIT, LIMIT)


def _moments(planes: Tensor) -> Tensor:
    """Mean, standard deviation and weight of the darkest parts, (N, C, H, W) -> (N, 3 C)."""
    mean = planes.mean((2, 3))
    square = planes * planes
    variance = (square.mean((2, 3)) - mean * mean).clamp(min=0)
    fourth = (square * square).mean((2, 3))
    return torch.cat([mean, (variance + FLOOR**2).sqrt(), fourth.sqrt().sqrt()], dim=1)


def _within(haematoxylin: Tensor, nuclear: Tensor) -> Tensor:
    """Share of nuclei, and mean and spread of their haematoxylin, (N, 3)."""
    share = nuclear.mean((2, 3))
    mean = (nuclear * haematoxylin).mean((2, 3)) / (share + FLOOR)
    square = (nuclear * haematoxylin * haematoxylin).mean((2, 3)) / (share + FLOOR)
    variance = (square - mean * mean).clamp(min=0)
    return torch.cat([torch.log(share + FLOOR), mean, (variance + FLOOR**2).sqrt()], dim=1)


def _blobs(stains: Tensor, nuclear: Tensor) -> Tensor:
    """Energies of differences of blurs, a pyramid of them: (N, 2, H, W) -> (N, 12 LEVELS).

    Two differences a level; of each, the dark blobs' mean and their high power mean, for
    haematoxylin and for eosin, and what of haematoxylin's lies in nuclei.
    """
    energies = []
    for _ in range(LEVELS):
        near = _blur(stains)
        far = _blur(near)
        for difference in (stains - near, near - far):
            dark = F.relu(difference)  # (N, 2, h, w)
            square = dark * dark
            energies.append(dark.mean((2, 3)))
            energies.append((square * square).mean((2, 3)).sqrt().sqrt())
            grain = nuclear * difference[:, :1].abs()
            energies.append(grain.mean((2, 3)) / (nuclear.mean((2, 3)) + FLOOR))
        stains, nuclear = _halve(near), _halve(nuclear)
    return torch.log(torch.cat(energies, dim=1) + FLOOR)


def _direction(stains: Tensor) -> Tensor:
    """How much each stain's edges run one way, 0 to 1, at a quarter of the resolution: (N, 2)."""
    planes = _halve(_blur(_halve(_blur(stains))))
    right = planes[:, :, :-1, 1:] - planes[:, :, :-1, :-1]
    down = planes[:, :, 1:, :-1] - planes[:, :, :-1, :-1]
    across, along = (right * right).mean((2, 3)), (down * down).mean((2, 3))
    mixed = (right * down).mean((2, 3))
    coherence = ((across - along) ** 2 + 4 * mixed**2 + FLOOR**4).sqrt()
    return coherence / (across + along + FLOOR**2)


def _blur(planes: Tensor) -> Tensor:
    """Two box means of 3 pixels: a blur of 1.2 pixels that ONNX Runtime does ten times as fast
    as a convolution; nothing is made up beyond the border."""
    once = F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(once, 3, stride=1, padding=1, count_include_pad=False)


def _halve(planes: Tensor) -> Tensor:
    return F.avg_pool2d(planes, 2)
