"""Stain and texture: a fixed bank of filters, without learned weights, 55 features a tile.

Optical density is parted into haematoxylin (nuclei) and eosin (the rest) by fixed stain
vectors. At four scales, from a part of a nucleus to a nest of cells, each is filtered for
blobs and edges; a tile's features are how strong these are, on the mean and at their
strongest. It needs no file, runs offline, and shows nuclear density, size and texture; it is
no match for a trained network.

Filters start on pixels twice as wide as the tile's, which costs a quarter. What is finer is
in the spread of the density before it is halved.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = 4
"""Scales: filters on the tile at half its size, then at a quarter, and so on."""

HAEMATOXYLIN = (0.650, 0.704, 0.286)
"""Optical density of the stain in red, green and blue (Ruifrok and Johnston, 2001)."""

EOSIN = (0.072, 0.990, 0.105)

UNITS = (1.0, 3.0, 8.0)
"""Factors on haematoxylin, eosin and neither, which differ so much from tile to tile."""

DENSITIES = (0.15, 0.3, 0.5)
"""Amounts of haematoxylin whose share of the tile is measured: pale, nuclear, dark."""

FEATURES = 3 + 3 * 3 + len(DENSITIES) + SCALES * 2 * 5


def unmixing() -> Tensor:
    """(3, 3): haematoxylin, eosin and neither, in UNITS, from optical density r, g, b."""
    stains = F.normalize(torch.tensor([HAEMATOXYLIN, EOSIN], dtype=torch.float64), dim=1)
    neither = F.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
    amounts: Tensor = torch.linalg.inv(torch.stack([*stains, neither]).T)
    return (torch.tensor(UNITS, dtype=torch.float64)[:, None] * amounts).float()


def filters() -> Tensor:
    """(3, 5, 5): a dark blob of about three pixels, an edge across x, an edge across y."""
    at = torch.arange(-2, 3, dtype=torch.float64)
    squared: Tensor = at[:, None] ** 2 + at[None] ** 2

    def bell(sigma: float) -> Tensor:
        values = torch.exp(squared / (-2 * sigma * sigma))
        return values / values.sum()

    edge = bell(1.0) * at
    edge = edge / edge.clamp(min=0).sum()
    return torch.stack([bell(0.8) - bell(1.6), edge, edge.T]).float()


class StainTexture(nn.Module):
    """Stain amounts, blobs and edges at several scales, as one vector a tile."""

    mix: Tensor
    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mix", unmixing()[:, :, None, None])
        bank = torch.zeros(6, 2, 5, 5)
        bank[:3, 0] = bank[3:, 1] = filters()
        self.register_buffer("bank", bank)

    def forward(self, x: Tensor) -> Tensor:
        """Features of tiles: red, green, blue from 0 to 255, (N, 3, H, W) -> (N, 55)."""
        density = math.log(256) - torch.log(x + 1)
        stains = F.conv2d(_halved(density), self.mix)  # (N, 3, H/2, W/2)
        features = [6 * _spread(density), *_amounts(stains), *_shares(stains[:, :1])]
        x = stains[:, :2]
        for scale in range(SCALES):
            x = _halved(x) if scale else x
            features += self._texture(x)
        return torch.cat(features, dim=1)

    def _texture(self, x: Tensor) -> list[Tensor]:
        """Blobs and edges of each stain: (N, 2, h, w) -> five of (N, 2)."""
        around = F.pad(x, (2, 2, 2, 2), mode="replicate")
        found = F.conv2d(around, self.bank)  # (N, 6, h, w)
        blob = found[:, 0::3]  # (N, 2, h, w)
        edge = torch.sqrt(_squared(found[:, 1::3]) + _squared(found[:, 2::3]) + 1e-8)
        return [
            80 * F.relu(blob).mean(dim=(2, 3)),
            80 * F.relu(-blob).mean(dim=(2, 3)),
            20 * _strongest(blob),
            5 * edge.mean(dim=(2, 3)),
            3 * _strongest(edge),
        ]


def _halved(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2), rounded up."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _squared(x: Tensor) -> Tensor:
    """A product, since a power is slow in ONNX Runtime."""
    return x * x


def _spread(x: Tensor) -> Tensor:
    """Standard deviation over a tile: (N, C, H, W) -> (N, C)."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return _squared(x - mean).mean(dim=(2, 3)).sqrt()


def _strongest(x: Tensor) -> Tensor:
    """Fourth-power mean, which listens to the strongest places: (N, C, h, w) -> (N, C)."""
    return _squared(_squared(x)).mean(dim=(2, 3)).sqrt().sqrt()


def _amounts(stains: Tensor) -> list[Tensor]:
    """Mean, spread and strongest of each stain: (N, 3, h, w) -> three of (N, 3)."""
    return [2 * stains.mean(dim=(2, 3)), 4 * _spread(stains), 2 * _strongest(stains)]


def _shares(haematoxylin: Tensor) -> list[Tensor]:
    """Share of the tile above each density, smoothly: (N, 1, H, W) -> as many of (N, 1)."""
    return [
        2 * torch.sigmoid((haematoxylin - density) * 20).mean(dim=(2, 3)) for density in DENSITIES
    ]
