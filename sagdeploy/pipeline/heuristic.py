"""Where heuristic guidance comes from: the regions of one slide, from what a cohort names."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.guidance.annotations import Annotations, outlined, read_annotations
from sagdeploy.guidance.cellmap import read_cell_map
from sagdeploy.guidance.cells import cell_regions, read_cells
from sagdeploy.guidance.masks import SUFFIXES, read_mask
from sagdeploy.guidance.ndpa import read_ndpa_cells
from sagdeploy.pipeline.detection import find_cells
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.tissue import find_tissue

Heuristic = Literal["annotations", "mask", "cells", "detected-cells"]
"""Outlines or a label mask, a label mask whatever its suffix, cells of a file, cells we find."""

HULLS: Final = ("cells", "detected-cells")
"""The heuristics whose regions are hulls around cells."""

Regions = Annotations | NDArray[np.bool_]
"""Outlines, or a label mask (h, w) over the whole slide."""

NO_REGIONS = Annotations(outlined(()))


def regions_of(
    row: CohortSlide, heuristic: Heuristic, *, size_l0: tuple[int, int], slide_mpp: float
) -> Regions:
    """The regions of a slide; none where the cohort names no file for it.

    size_l0, slide_mpp: of the slide as its bag knows it
    """
    if heuristic == "detected-cells":
        return cell_regions(_detected(row, slide_mpp), slide_mpp=slide_mpp)
    if heuristic == "cells":
        cells = cells_of(row, size_l0=size_l0, slide_mpp=slide_mpp)
        return cell_regions(cells, slide_mpp=slide_mpp)
    if row.annotation_path is None:
        return NO_REGIONS
    if heuristic == "mask" or row.annotation_path.suffix.lower() in SUFFIXES:
        return read_mask(row.annotation_path)
    return read_annotations(row.annotation_path)


def cells_of(
    row: CohortSlide, *, size_l0: tuple[int, int], slide_mpp: float
) -> NDArray[np.float64]:
    """Centres of the cells in the file that the cohort names, by its suffix, (N, 2) at level 0."""
    path = row.cells_path
    if path is None:
        return np.empty((0, 2))
    if path.suffix.lower() in SUFFIXES:
        return read_cell_map(path, size_l0=size_l0, slide_mpp=slide_mpp)
    if path.suffix.lower() == ".ndpa":
        with open_isolated(row.located()) as slide:
            offset_nm = slide.centre_offset_nm
        return read_ndpa_cells(
            path, size_l0=size_l0, slide_mpp=slide_mpp, centre_offset_nm=offset_nm
        )
    return read_cells(path)


def _detected(row: CohortSlide, slide_mpp: float) -> NDArray[np.float64]:
    with open_isolated(row.located()) as slide:
        return find_cells(slide, find_tissue(slide, slide_mpp), slide_mpp=slide_mpp)
