"""Cells in a detection map: a picture of the whole slide at 10x in which cells are white.

VSGD-Net makes such maps of melanocytes. It cuts the slide into patches of 256 px, and a map
that is put together again from them keeps what was padded: half of it left and on top.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.masks import read_mask

MAP_MPP = 1.0
"""Microns per pixel of a map at 10x."""

PATCH_PX = 256
LARGEST_ERROR = 0.25
"""How far from 10x, and from the slide's shape, a map may be that covers the slide."""


def read_cell_map(path: Path, *, size_l0: tuple[int, int], slide_mpp: float) -> NDArray[np.float64]:
    """Centres of the cells in a map of a slide, (N, 2) x, y at level 0.

    A cell is a connected white area, touching corners included.
    AnnotationError where it is no picture, or cannot be of this slide.
    """
    mask = read_mask(path)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3), int))
    centres = ndimage.center_of_mass(mask, labels, np.arange(1, count + 1))
    xy_px = np.array(centres, np.float64).reshape(-1, 2)[:, ::-1] + 0.5
    map_px = np.array(mask.shape[::-1])
    slide_px = np.array(size_l0) * (slide_mpp / MAP_MPP)
    padding = map_px - np.ceil(slide_px)
    if (map_px % PATCH_PX == 0).all() and ((padding >= 0) & (padding < PATCH_PX)).all():
        xy_l0: NDArray[np.float64] = (xy_px - padding // 2) * (MAP_MPP / slide_mpp)
        return xy_l0
    if (np.abs(map_px / slide_px - 1) > LARGEST_ERROR).any():
        width, height = map_px.tolist()
        raise AnnotationError(
            f"a cell map of {width} x {height} px, where the slide at 10x has "
            f"{slide_px[0]:.0f} x {slide_px[1]:.0f}",
            hint="save the map of the whole slide, at 1 micron per pixel",
            place=str(path),
        )
    stretched: NDArray[np.float64] = xy_px * (np.array(size_l0) / map_px)
    return stretched
