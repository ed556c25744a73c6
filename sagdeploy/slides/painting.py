"""Paint a field that looks like haematoxylin and eosin.

Everything is optical density until the last step: both stains absorb light as they do in a
real section, so that stain separation works on painted slides too. Any region is a pure
function of the painting and of where the region lies.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.anatomy import Anatomy, plan_anatomy
from sagdeploy.slides.artefacts import Artefacts, Pen, plan_artefacts
from sagdeploy.slides.lattice import Box, drawn
from sagdeploy.slides.nuclei import lesion_spacing_um, shape_of, stamps
from sagdeploy.slides.textures import camera_noise, cytoplasm, fibres, laid_over, looked_up

Density = NDArray[np.float32]

HAEMATOXYLIN: Final = (0.70, 0.78, 0.30)
EOSIN: Final = (0.10, 0.92, 0.42)
"""Absorption of red, green and blue light by one unit of each stain."""

STEP: Final = 8
"""Pixels between the points at which smooth fields are evaluated."""

LEVELS: Final = 256
"""Steps of a unit of optical density in the table of brightness."""


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """One slide, ready to be painted region by region."""

    anatomy: Anatomy
    artefacts: Artefacts
    nuclei: tuple[Density, ...]
    """Stamps of each kind of cell."""

    absorption: Density
    """(2, 3) of haematoxylin and eosin as this slide was stained."""

    brightness: NDArray[np.uint8]
    """Brightness by optical density: a table, since exponentials differ between machines."""

    def region(self, xy_l0: tuple[int, int], size_l0: tuple[int, int]) -> NDArray[np.uint8]:
        """RGB (height, width, 3) of a region at level 0."""
        box = Box(*xy_l0, *size_l0)
        depth = drawn(self.anatomy.tissue_depth, box, STEP)
        density = np.zeros((3, box.height, box.width), np.float32)
        if depth.min() < 0:
            self.artefacts.add_to(density, box)
            density *= depth < -self.anatomy.px(6)
        if depth.max() > -self.anatomy.px(2):
            self._add_tissue(density, box, depth)
        density += np.float32(0.012) + np.float32(0.01) * laid_over(box, camera_noise())
        density *= LEVELS
        index = density.clip(0, len(self.brightness) - 1).astype(np.uint16)
        rgb = np.empty((box.height, box.width, 3), np.uint8)
        for channel in range(3):
            rgb[..., channel] = self.brightness.take(index[channel])
        return rgb

    def _add_tissue(self, density: Density, box: Box, depth: Density) -> None:
        stains = self._stains(box, depth)
        stains *= (depth / np.float32(self.anatomy.px(2)) + np.float32(0.5)).clip(0, 1)
        for channel, (haematoxylin, eosin) in enumerate(self.absorption.T):
            density[channel] += haematoxylin * stains[0]
            density[channel] += eosin * stains[1]

    def _stains(self, box: Box, depth: Density) -> Density:
        """Haematoxylin and eosin (2, height, width) if all of the box were tissue."""
        grain = laid_over(box, cytoplasm(self.anatomy.mpp))
        stains = self._stroma(box, grain)
        self._add_surface(stains, box, depth, grain)
        self._add_lesion(stains, box, grain)
        self._add_glands(stains, box, grain)
        body, chromatin = self._nuclei(box)
        stains *= 1 - np.float32(0.8) * body
        stains[0] += chromatin
        return stains

    def _stroma(self, box: Box, grain: Density) -> Density:
        """Wavy bundles of collagen with clefts between them."""
        c, s = (
            np.float32(np.cos(self.anatomy.fibre_angle)),
            np.float32(np.sin(self.anatomy.fibre_angle)),
        )
        x = np.arange(box.x, box.x + box.width, dtype=np.float32)
        y = np.arange(box.y, box.y + box.height, dtype=np.float32)[:, None]
        across = drawn(self.anatomy.fibre_warp, box, STEP) + (y * c - x * s)
        bundles, clefts = looked_up(x * c + y * s, across, fibres(self.anatomy.mpp))
        loose = drawn(self.anatomy.looseness, box, 2 * STEP)
        solid = (clefts * np.float32(1.3) + (2.4 - loose)).clip(0.1, 1)
        stains = np.empty((2, box.height, box.width), np.float32)
        stains[0] = (0.06 + 0.02 * bundles + 0.03 * loose).clip(0, None)
        stains[1] = (0.52 + 0.13 * bundles + 0.04 * grain - 0.10 * loose).clip(0.15, None)
        stains *= solid
        return stains

    def _add_surface(self, stains: Density, box: Box, depth: Density, grain: Density) -> None:
        """Layered epithelium along the tissue's edge, under a skin of keratin."""
        depth_um = depth * np.float32(self.anatomy.mpp)
        if depth_um.min() > 80:
            return
        thickness = drawn(self.anatomy.surface_um, box, STEP)
        if thickness.max() <= 0:
            return
        layer = ((thickness - depth_um) / 2 + 0.5).clip(0, 1) * (thickness / 6).clip(0, 1)
        keratin = ((9 - depth_um) / 2 + 0.5).clip(0, 1)
        stains[0] += layer * (0.26 + 0.05 * grain - 0.2 * keratin - stains[0])
        stains[1] += layer * (0.36 + 0.05 * grain + 0.3 * keratin - stains[1])

    def _add_lesion(self, stains: Density, box: Box, grain: Density) -> None:
        """Cytoplasm of the lesion's nests; septa of stroma are left between them."""
        depth = drawn(self.anatomy.lesion_depth, box, STEP)
        if depth.max() < 0:
            return
        inside = (depth / np.float32(self.anatomy.px(3)) + 0.5).clip(0, 1)
        inside *= (drawn(self.anatomy.nest, box, STEP // 2) * 9 + 0.6).clip(0, 1)
        stains[0] += inside * (0.19 + 0.05 * grain - stains[0])
        stains[1] += inside * (0.33 + 0.06 * grain - stains[1])

    def _add_glands(self, stains: Density, box: Box, grain: Density) -> None:
        """Rings of epithelium around an empty lumen."""
        glands = self.anatomy.glands(box)
        px = np.float32(self.anatomy.px(1))
        for index, radius in enumerate(glands.radius):
            part = box.part(glands.box(index))
            if part is None:
                continue
            view, texture = box.view(stains, part), box.view(grain, part)
            distance = drawn(partial(glands.distance, index), part, 2)
            ring = ((radius - distance) / (1.2 * px) + 0.5).clip(0, 1)
            filled = 1 - 0.94 * ((0.5 * radius - distance) / (2 * px) + 0.6 * texture).clip(0, 1)
            view[0] += ring * ((0.24 + 0.05 * texture) * filled - view[0])
            view[1] += ring * ((0.34 + 0.05 * texture) * filled - view[1])

    def _nuclei(self, box: Box) -> Density:
        """Body and chromatin of all nuclei (2, height, width); the darkest wins an overlap."""
        reach = max(stamp.shape[-1] for stamp in self.nuclei) // 2 + 1
        around = box.grown(2 * reach)
        canvas = np.zeros((2, around.height, around.width), np.float32)
        cells = self.anatomy.cells(box.grown(reach))
        xy = np.rint(cells.xy_l0).astype(np.int64) - (around.x, around.y)
        drawings = np.column_stack([xy, cells.kind, shape_of(cells.turn)])
        for x, y, kind, shape in drawings.tolist():
            stamp = self.nuclei[kind][shape]
            half = stamp.shape[-1] // 2
            view = canvas[:, y - half : y + half + 1, x - half : x + half + 1]
            np.maximum(view, stamp, out=view)
        return around.view(canvas, box)


def plan_painting(
    *,
    seed: int,
    size_l0: tuple[int, int],
    mpp: float,
    grade: float,
    pen: Pen | None,
    pen_touches: bool = False,
) -> Painting:
    """A painting that can be asked for any of its regions.

    grade:       look of the lesion's nuclei, from 0 (benign) to 1; it changes nothing else
    pen_touches: whether the pen's stroke runs across a corner of the box around the tissue
    """
    anatomy = plan_anatomy(
        seed=seed, size_l0=size_l0, mpp=mpp, lesion_spacing_um=lesion_spacing_um(grade)
    )
    artefacts = plan_artefacts(
        seed=seed, size_l0=size_l0, tissue=anatomy.tissue, pen=pen, pen_touches=pen_touches
    )
    rng = np.random.default_rng((seed, 2))
    strength = rng.normal(1, (0.05, 0.09)).clip(0.8, 1.25)[:, None]
    tint = rng.normal(1, 0.03, (2, 3)).clip(0.9, 1.1)
    absorption = np.array([HAEMATOXYLIN, EOSIN]) * strength * tint
    brightness = rng.uniform(240, 247) * np.exp(-np.arange(5 * LEVELS) / LEVELS)
    return Painting(
        anatomy,
        artefacts,
        stamps(grade, mpp),
        absorption.astype(np.float32),
        np.rint(brightness).astype(np.uint8),
    )
