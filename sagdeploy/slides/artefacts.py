"""What lies on the glass beside the tissue: a pen's stroke, dust, the coverslip's edge."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.lattice import Box, Floats, drawn, value_noise
from sagdeploy.slides.outline import Outline

Pen = Literal["green", "blue", "black", "red"]
PENS: Final[tuple[Pen, ...]] = get_args(Pen)

INK: Final[dict[Pen, tuple[float, float, float]]] = {
    "green": (2.1, 0.75, 1.25),
    "blue": (1.9, 1.35, 0.35),
    "black": (1.7, 1.7, 1.6),
    "red": (0.25, 1.75, 1.45),
}
"""Optical density of a stroke in red, green and blue light."""


@dataclass(frozen=True, slots=True, eq=False)
class Artefacts:
    """The artefacts of one slide, all of them on glass."""

    seed: int
    pen: Pen | None
    stroke_l0: Floats
    """(P, 2) the line that the pen drew."""

    stroke_px: float
    """Width of that line."""

    dust_l0: Floats
    """(D, 3) x, y and radius of each speck."""

    edge: tuple[float, float, float] | None
    """a, b, c of the coverslip's edge, where ax + by = c; the glass is darker above c."""

    def add_to(self, density: NDArray[np.float32], box: Box) -> None:
        """Add their optical density over a box to (3, height, width); tissue is not left out."""
        if self.pen is not None and self._stroke_touches(box):
            ink = drawn(self._ink, box, 4).clip(0, 1)
            density += ink * np.array(INK[self.pen], np.float32)[:, None, None]
        if self.edge is not None and self._edge_touches(box):
            density += drawn(self._shade, box, 8)
        for x, y, radius in self.dust_l0:
            part = box.part(
                Box(int(x - radius) - 3, int(y - radius) - 3, *2 * [int(2 * radius) + 6])
            )
            if part is not None:
                box.view(density, part)[...] += _speck(part, x, y, radius)

    def _stroke_touches(self, box: Box) -> bool:
        around = box.grown(int(2 * self.stroke_px))
        low, high = self.stroke_l0.min(axis=0), self.stroke_l0.max(axis=0)
        width, height = np.ceil(high - low).astype(int) + 1
        return around.part(Box(int(low[0]), int(low[1]), int(width), int(height))) is not None

    def _edge_touches(self, box: Box) -> bool:
        a, b, c = self.edge or (0.0, 0.0, np.inf)
        x, y = (box.x, box.x + box.width), (box.y, box.y + box.height)
        return max(a * x[0], a * x[1]) + max(b * y[0], b * y[1]) > c - 40

    def _ink(self, x: Floats, y: Floats) -> Floats:
        width = self.stroke_px
        inside = width / 2 - _distance(x, y, self.stroke_l0)
        inside += 0.12 * width * value_noise(x, y, wavelength=width / 2, seed=self.seed, channel=60)
        streaks = value_noise(x + y, x - y, wavelength=width / 4, seed=self.seed, channel=61)
        return np.clip(inside / 5 + 0.5, 0, 1) * (0.68 + 0.16 * streaks)

    def _shade(self, x: Floats, y: Floats) -> Floats:
        a, b, c = self.edge or (0, 0, 0)
        beyond = a * x + b * y - c
        line = np.exp(-((beyond / 7) ** 2))
        return 0.30 * line + 0.13 * np.clip(beyond / 6 + 0.5, 0, 1)


def plan_artefacts(
    *, seed: int, size_l0: tuple[int, int], tissue: Outline, pen: Pen | None, pen_touches: bool
) -> Artefacts:
    """Artefacts in the margin that the tissue leaves; the pen's colour moves nothing.

    pen_touches: whether the stroke runs across a corner of the box around the tissue
    """
    rng = np.random.default_rng((seed, 1))
    size = np.asarray(size_l0, np.float64)
    unit = float(size.max()) / 2600
    width = 42 * unit
    stroke = _plan_stroke(rng, size, tissue)
    if pen_touches:
        stroke = _across_corner(tissue.vertices)
    count = int(rng.integers(8, 20))
    dust = np.column_stack([rng.random((count, 2)) * size, rng.uniform(2, 7, count) * unit])
    edge = _plan_edge(rng, size) if rng.random() < 0.6 else None
    return Artefacts(seed, pen, stroke, width, dust, edge)


def _plan_stroke(rng: np.random.Generator, size: Floats, tissue: Outline) -> Floats:
    """A wavy line along the side of the slide that has the most room."""
    low, high = tissue.vertices.min(axis=0), size - tissue.vertices.max(axis=0)
    room = np.concatenate([low, high])
    side = int(np.argmax(room))
    across, at_end = side % 2, side >= 2
    along = np.linspace(0, 1, 40)
    length = rng.uniform(0.3, 0.5)
    start = rng.uniform(0.08, 0.92 - length)
    offset = room[side] * (0.42 + 0.12 * np.sin(2 * np.pi * (along * 1.3 + rng.random())))
    line = np.empty((40, 2))
    line[:, 1 - across] = (start + length * along) * size[1 - across]
    line[:, across] = size[across] - offset if at_end else offset
    return line


def _across_corner(outline: Floats) -> Floats:
    """A line across that corner of the box around an outline which is farthest from it."""
    box = np.stack([outline.min(axis=0), outline.max(axis=0)])
    corners = np.array([(x, y) for x in box[:, 0] for y in box[:, 1]])
    gaps = outline - corners[:, None]  # (4, V, 2)
    distance = np.hypot(gaps[..., 0], gaps[..., 1])
    corner = int(distance.min(axis=1).argmax())
    x, y = gaps[corner, distance[corner].argmin()]
    along = np.linspace(-0.5, 0.5, 40)[:, None]
    line: Floats = corners[corner] + (x / 2, y / 2) + along * (-y, x)
    return line


def _plan_edge(rng: np.random.Generator, size: Floats) -> tuple[float, float, float]:
    """A slightly tilted line near the slide's right or lower border."""
    tilt, inset = rng.uniform(-0.012, 0.012), rng.uniform(0.015, 0.035)
    if rng.random() < 0.5:
        return 1.0, float(tilt), float(size[0] * (1 - inset))
    return float(tilt), 1.0, float(size[1] * (1 - inset))


def _distance(x: Floats, y: Floats, line: Floats) -> Floats:
    """Distance of points from the nearest part of a line."""
    nearest = np.full(x.shape, np.inf)
    for (x0, y0), (dx, dy) in zip(line[:-1], np.diff(line, axis=0), strict=True):
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
    return nearest


def _speck(box: Box, x: float, y: float, radius: float) -> NDArray[np.float32]:
    rows, columns = np.ogrid[box.y : box.y + box.height, box.x : box.x + box.width]
    distance = np.hypot(columns - x, rows - y)
    return (0.9 * np.clip((radius - distance) / 2.5 + 0.5, 0, 1)).astype(np.float32)
