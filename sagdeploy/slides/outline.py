"""Irregular closed outlines, of a section of tissue and of the lesion in it."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from sagdeploy.slides.lattice import Floats

TAU: Final = 2 * np.pi
VERTICES: Final = 128


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An irregular closed outline around a centre that sees all of it."""

    centre: tuple[float, float]
    axes: tuple[float, float]
    """Half width and half height of the ellipse that the outline winds around."""

    radii: Floats
    """(V,) distance of each vertex, as a share of the ellipse's."""

    @property
    def vertices(self) -> Floats:
        """(V, 2) x, y, not closed."""
        angle = np.arange(len(self.radii)) * (TAU / len(self.radii))
        rim = np.stack([np.cos(angle), np.sin(angle)], axis=1) * self.radii[:, None]
        return np.asarray(self.centre) + rim * self.axes

    @property
    def area(self) -> float:
        """Enclosed square pixels."""
        x, y = self.vertices.T
        return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)

    def depth(self, x: Floats, y: Floats) -> Floats:
        """About how far inside the outline points are, in pixels; negative outside."""
        u, v = (x - self.centre[0]) / self.axes[0], (y - self.centre[1]) / self.axes[1]
        turn = (np.arctan2(v, u) / TAU % 1) * len(self.radii)
        closed = np.append(self.radii, self.radii[0])
        rim = np.interp(turn, np.arange(len(closed)), closed)
        return np.asarray((rim - np.hypot(u, v)) * min(self.axes))


def plan_tissue(rng: np.random.Generator, size_l0: tuple[int, int]) -> Outline:
    """A section that fills 36 to 44 % of the slide, out of its centre."""
    size = np.asarray(size_l0, np.float64)
    shape = _unit_outline(rng, roughness=0.16)
    low, high = shape.vertices.min(axis=0), shape.vertices.max(axis=0)
    stretch = rng.uniform(0.92, 1.08)
    axes = size * np.sqrt(rng.uniform(0.36, 0.44) / shape.area) * (stretch, 1 / stretch)
    axes = np.minimum(axes, 0.86 * size / (high - low))
    side = rng.uniform(0.12, 0.28, 2)
    side = np.where(rng.random(2) < 0.5, side, 1 - side)
    centre = (size - axes * (high - low)) * side - axes * low
    return Outline(
        (float(centre[0]), float(centre[1])), (float(axes[0]), float(axes[1])), shape.radii
    )


def plan_lesion(rng: np.random.Generator, tissue: Outline) -> Outline:
    """A lesion of 5 to 8 % of the tissue, wholly inside it and out of its centre."""
    shape = _unit_outline(rng, roughness=0.22)
    radius = np.sqrt(rng.uniform(0.05, 0.08) * tissue.area / shape.area)
    stretch = rng.uniform(0.85, 1.18)
    axes = (float(radius * stretch), float(radius / stretch))
    angle, reach = rng.uniform(0, TAU), 0.55
    while True:
        away = reach * np.asarray(tissue.axes) * (np.cos(angle), np.sin(angle))
        x, y = np.asarray(tissue.centre) + away
        lesion = Outline((float(x), float(y)), axes, shape.radii)
        if (tissue.depth(*lesion.vertices.T) > 0.1 * min(tissue.axes)).all():
            return lesion
        reach *= 0.9  # ends at the tissue's centre, where a lesion of this size always fits


def _unit_outline(rng: np.random.Generator, *, roughness: float) -> Outline:
    angle = np.arange(VERTICES) * (TAU / VERTICES)
    radii = np.ones(VERTICES)
    for wave in range(2, 8):
        strength = roughness / wave * rng.uniform(0.5, 1)
        radii += strength * np.cos(wave * angle + rng.uniform(0, TAU))
    return Outline((0.0, 0.0), (1.0, 1.0), radii)
