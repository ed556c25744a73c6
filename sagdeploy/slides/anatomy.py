"""What lies where on a painted slide: tissue, lesion, glands and every cell.

Shapes and points only, no pixel. Lengths are level-0 pixels unless they are named `_um`.
Every random choice has a `channel` of its own; `scattered` takes the next one too.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.lattice import Box, Floats, scattered, uniform, value_noise
from sagdeploy.slides.outline import TAU, Outline, plan_lesion, plan_tissue

KINDS: Final = ("stroma", "lymphocyte", "epithelium", "lesion")
"""Kinds of cells; `Cells.kind` counts in this order."""

STROMA, LYMPHOCYTE, EPITHELIUM, LESION = range(len(KINDS))


@dataclass(frozen=True, slots=True, eq=False)
class Glands:
    """Round structures with a lumen, anywhere in the tissue but in the lesion."""

    point: NDArray[np.int64]
    """(N, 2) lattice point, which decides all that is random about a gland."""

    xy_l0: Floats
    """(N, 2) centres."""

    radius: Floats
    """(N,) out to the basement membrane, on average of all directions."""

    stretch: Floats
    """(N,) how much longer than that they are in one direction, and narrower across."""

    angle: Floats
    """(N,) of that direction, in radians."""

    def where(self, chosen: NDArray[np.bool_]) -> "Glands":
        """The glands for which `chosen` (N,) is true."""
        return Glands(
            self.point[chosen],
            self.xy_l0[chosen],
            self.radius[chosen],
            self.stretch[chosen],
            self.angle[chosen],
        )

    def box(self, index: int) -> Box:
        """A box around one gland."""
        reach = int(self.radius[index] * self.stretch[index]) + 4
        x, y = self.xy_l0[index]
        return Box(int(x) - reach, int(y) - reach, 2 * reach, 2 * reach)

    def distance(self, index: int, x: Floats, y: Floats) -> Floats:
        """Distance from the centre of one gland as if it were round, in pixels."""
        dx, dy = x - self.xy_l0[index, 0], y - self.xy_l0[index, 1]
        c, s = np.cos(self.angle[index]), np.sin(self.angle[index])
        along, across = dx * c + dy * s, dy * c - dx * s
        stretch = float(self.stretch[index])
        return np.asarray(np.hypot(along / stretch, across * stretch))


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells by the centre of their nucleus."""

    xy_l0: Floats
    """(N, 2)"""

    kind: NDArray[np.int8]
    """(N,) index into KINDS."""

    turn: Floats
    """(N,) in [0, 1): the direction of the nucleus, in half turns."""

    def __len__(self) -> int:
        return len(self.kind)

    def where(self, chosen: NDArray[np.bool_]) -> "Cells":
        """The cells for which `chosen` (N,) is true."""
        return Cells(self.xy_l0[chosen], self.kind[chosen], self.turn[chosen])


def join(parts: list[Cells]) -> Cells:
    """All cells of several parts, in their order."""
    return Cells(
        np.concatenate([part.xy_l0 for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.turn for part in parts]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The plan of one slide; every answer depends on the place asked about, and nothing else."""

    seed: int
    mpp: float
    tissue: Outline
    lesion: Outline
    lesion_spacing_um: float
    """Distance of neighbouring cells in the lesion: large nuclei need room."""

    def px(self, um: float) -> float:
        """Level-0 pixels of a length in microns."""
        return um / self.mpp

    def noise(self, x: Floats, y: Floats, *, um: float, channel: int) -> Floats:
        """Smooth noise in [-1, 1] with bumps about `um` microns apart."""
        return value_noise(x, y, wavelength=self.px(um), seed=self.seed, channel=channel)

    def tissue_depth(self, x: Floats, y: Floats) -> Floats:
        """Depth below the ragged edge of the tissue, in pixels; negative on glass."""
        ragged = self.noise(x, y, um=60, channel=1) + 0.5 * self.noise(x, y, um=17, channel=2)
        return self.tissue.depth(x, y) + self.px(9) * ragged

    def lesion_depth(self, x: Floats, y: Floats) -> Floats:
        """Depth below the outline of the lesion, in pixels; negative outside."""
        return self.lesion.depth(x, y)

    def nest(self, x: Floats, y: Floats) -> Floats:
        """Positive in the lesion's nests of cells, negative in the septa between them."""
        first = self.noise(x, y, um=55, channel=3)
        second = self.noise(x, y, um=38, channel=4)
        return np.abs(first + 0.6 * second) - 0.13

    def surface_um(self, x: Floats, y: Floats) -> Floats:
        """Thickness of the epithelium that covers this part of the tissue's edge, in microns."""
        along = self.noise(x, y, um=900, channel=5)
        ridges = self.noise(x, y, um=70, channel=6)
        return np.clip(2.5 * along + 0.2, 0, 1) * (46 + 24 * ridges)

    def looseness(self, x: Floats, y: Floats) -> Floats:
        """From firm (-1) to loose (1) stroma."""
        return self.noise(x, y, um=240, channel=17)

    def fibre_warp(self, x: Floats, y: Floats) -> Floats:
        """How far, in pixels, collagen is pushed aside across its main direction."""
        return self.px(55) * (
            self.noise(x, y, um=310, channel=7) + 0.30 * self.noise(x, y, um=90, channel=8)
        )

    @property
    def fibre_angle(self) -> float:
        """Main direction of the collagen, in radians."""
        return float(uniform(*np.zeros((2, 1), np.int64), seed=self.seed, channel=9)[0]) * np.pi

    def glands(self, box: Box) -> Glands:
        """The glands that may reach into a box."""
        spacing = self.px(125)
        point, xy = scattered(
            box.grown(round(spacing)), spacing=spacing, jitter=0.2, seed=self.seed, channel=10
        )
        x, y = xy.T
        draw, size, stretch, angle = (
            uniform(*point.T, seed=self.seed, channel=channel) for channel in (12, 13, 14, 15)
        )
        radius = self.px(1) * (18 + 17 * size)
        chosen = (
            (draw < 0.45 + 0.9 * self.noise(x, y, um=420, channel=16))
            & (self.tissue_depth(x, y) > 1.3 * radius + self.px(65))
            & (self.lesion_depth(x, y) < -1.3 * radius - self.px(30))
        )
        return Glands(point, xy, radius, 1 + 0.3 * stretch, angle * np.pi).where(chosen)

    def cells(self, box: Box) -> Cells:
        """The cells whose centres lie in a box."""
        cells = join([self._scattered_cells(box), self._gland_cells(box), self._lesion_cells(box)])
        return cells.where(box.holds(cells.xy_l0))

    def _scattered_cells(self, box: Box) -> Cells:
        """Fibroblasts, lymphocytes alone and in crowds, and the surface epithelium."""
        point, xy = scattered(box, spacing=self.px(7.6), jitter=0.36, seed=self.seed, channel=20)
        x, y = xy.T
        depth_um = self.tissue_depth(x, y) * self.mpp
        lesion = self.lesion_depth(x, y) > 0
        surface = (depth_um < self.surface_um(x, y)) & ~lesion
        crowd = np.clip(8 * (self.noise(x, y, um=130, channel=22) - 0.6), 0, 0.75)
        draw = uniform(*point.T, seed=self.seed, channel=23)
        lymphocyte = draw < np.where(surface, 0.006, 0.03 + crowd)
        stroma = (draw > 0.87) & ~surface & ~lymphocyte
        epithelium = surface & ~lymphocyte & (draw < 0.9) & (depth_um > 9)
        kind = np.select([lymphocyte, epithelium], [LYMPHOCYTE, EPITHELIUM], STROMA)
        turn = uniform(*point.T, seed=self.seed, channel=24)
        turn = np.where(stroma, (self._fibre_turn(x, y) + 0.08 * (turn - 0.5)) % 1, turn)
        chosen = (lymphocyte | epithelium | stroma) & (depth_um > 3) & ~self._in_gland(box, xy)
        chosen &= ~(lesion & (self.nest(x, y) > 0) & ~lymphocyte)
        return Cells(xy, kind.astype(np.int8), turn).where(chosen)

    def _gland_cells(self, box: Box) -> Cells:
        """The ring of nuclei of each gland."""
        glands = self.glands(box)
        count = (TAU * 0.76 * glands.radius / self.px(6.6)).astype(np.int64)
        which = np.repeat(np.arange(len(count)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        key = glands.point[which] * 1009 + place[:, None]
        wobble = [uniform(*key.T, seed=self.seed, channel=30 + axis) - 0.5 for axis in (0, 1)]
        angle = TAU * (place + 0.5 * wobble[0]) / count[which]
        distance = glands.radius[which] * (0.78 + 0.12 * wobble[1])
        stretch, tilt = glands.stretch[which], glands.angle[which]
        u, v = distance * np.cos(angle) * stretch, distance * np.sin(angle) / stretch
        away = [u * np.cos(tilt) - v * np.sin(tilt), u * np.sin(tilt) + v * np.cos(tilt)]
        kind = np.full(len(which), EPITHELIUM, np.int8)
        turn = np.arctan2(away[1], away[0]) / np.pi % 1
        return Cells(glands.xy_l0[which] + np.stack(away, axis=1), kind, turn)

    def _lesion_cells(self, box: Box) -> Cells:
        """The cells that carry the diagnosis, in nests."""
        point, xy = scattered(
            box, spacing=self.px(self.lesion_spacing_um), jitter=0.34, seed=self.seed, channel=40
        )
        x, y = xy.T
        draw = uniform(*point.T, seed=self.seed, channel=42)
        chosen = (self.lesion_depth(x, y) > 0) & (self.nest(x, y) > 0.02) & (draw < 0.94)
        turn = uniform(*point.T, seed=self.seed, channel=43)
        return Cells(xy, np.full(len(xy), LESION, np.int8), turn).where(chosen)

    def _in_gland(self, box: Box, xy: Floats) -> NDArray[np.bool_]:
        inside = np.zeros(len(xy), bool)
        glands = self.glands(box)
        for index, radius in enumerate(glands.radius):
            near = np.flatnonzero(glands.box(index).holds(xy))
            inside[near] |= glands.distance(index, *xy[near].T) < 1.1 * radius
        return inside

    def _fibre_turn(self, x: Floats, y: Floats) -> Floats:
        """Direction of the collagen, in half turns: along it, its texture does not change."""
        step, angle = self.px(4), self.fibre_angle
        warp = self.fibre_warp(x, y)
        across_x = -np.sin(angle) + (self.fibre_warp(x + step, y) - warp) / step
        across_y = np.cos(angle) + (self.fibre_warp(x, y + step) - warp) / step
        return np.asarray(np.arctan2(-across_x, across_y) / np.pi % 1)


def plan_anatomy(
    *, seed: int, size_l0: tuple[int, int], mpp: float, lesion_spacing_um: float
) -> Anatomy:
    """A section of tissue off the slide's centre, with a lesion in it.

    Neither outline depends on the spacing: the lesion's class shows in its cells alone.
    """
    rng = np.random.default_rng(seed)
    tissue = plan_tissue(rng, size_l0)
    return Anatomy(seed, mpp, tissue, plan_lesion(rng, tissue), lesion_spacing_um)
