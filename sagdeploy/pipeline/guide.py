"""Guidance into the bags of a cohort: from tissue, annotations, label masks or cells."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.bag import Bag, read_bag, with_guidance, write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import BagError
from sagdeploy.guidance.annotations import Annotations, outlined, read_annotations
from sagdeploy.guidance.cells import cell_regions, read_cells
from sagdeploy.guidance.masks import SUFFIXES, read_mask
from sagdeploy.guidance.weights import area_ratios
from sagdeploy.pipeline.outcome import SlideOutcome, each_slide
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tiling import coverage
from sagdeploy.slides.tissue import TissueMask, find_tissue

Heuristic = Literal["annotations", "cells"]
Regions = Annotations | NDArray[np.bool_]
"""Outlines, or a label mask (h, w) over the whole slide."""

NO_REGIONS = Annotations(outlined(()))


def guide_cohort(
    cohort: Cohort, bags: Path, *, tissue: bool, heuristic: Heuristic | None
) -> Iterator[SlideOutcome]:
    """Write guidance into `bags/<slide_id>.h5` for each slide, in order.

    heuristic: which column of the table HG comes from; a slide without a file there gets
        HG of all zeros, which means none
    """

    def work(row: CohortSlide) -> str:
        return guide_slide(row, bags / f"{row.slide_id}.h5", tissue=tissue, heuristic=heuristic)

    return each_slide(cohort.slides, lambda row: row.slide_id, work)


def guide_slide(row: CohortSlide, path: Path, *, tissue: bool, heuristic: Heuristic | None) -> str:
    """Write guidance into one bag; says in a line what was done."""
    bag = read_bag(path)
    guided = guide_bag(
        bag,
        tissue=_tissue(row) if tissue else None,
        annotations=_regions(row, heuristic, bag.header.mpp) if heuristic else None,
    )
    write_bag(path, guided)
    return ", ".join(_told(guided, tissue=tissue, heuristic=heuristic))


def guide_bag(bag: Bag, *, tissue: TissueMask | None, annotations: Regions | None) -> Bag:
    """The bag with TG from a tissue mask and HG from annotations; what is not given stays."""
    size_l0 = bag.header.slide_size_l0
    if tissue is not None and tissue.size_l0 != size_l0:
        raise BagError(
            f"{bag.header.slide_id}: the slide is {tissue.size_l0} px, its bag is of {size_l0}",
            hint="run sagdeploy extract again for this slide",
        )
    return with_guidance(
        bag,
        tissue=None if tissue is None else _coverage(bag, tissue.mask),
        heuristic=None if annotations is None else _coverage(bag, annotations),
    )


def _coverage(bag: Bag, regions: Regions) -> tuple[NDArray[np.float64], ...]:
    """Share of each tile that is covered, one (N,) a magnification."""
    levels = [level.tiles for level in bag.magnifications]
    if isinstance(regions, Annotations):
        return tuple(area_ratios(regions.regions, tiles) for tiles in levels)
    size_l0 = bag.header.slide_size_l0
    return tuple(coverage(regions, tiles.xy_l0, tiles.size_l0, size_l0) for tiles in levels)


def _tissue(row: CohortSlide) -> TissueMask:
    with open_slide(row.slide_path) as slide:
        return find_tissue(slide)


def _regions(row: CohortSlide, heuristic: Heuristic, slide_mpp: float) -> Regions:
    if heuristic == "cells":
        if row.cells_path is None:
            return NO_REGIONS
        return cell_regions(read_cells(row.cells_path), slide_mpp=slide_mpp)
    if row.annotation_path is None:
        return NO_REGIONS
    if row.annotation_path.suffix.lower() in SUFFIXES:
        return read_mask(row.annotation_path)
    return read_annotations(row.annotation_path)


def _told(bag: Bag, *, tissue: bool, heuristic: Heuristic | None) -> Iterator[str]:
    """What the bag's guidance covers: `TG on 12 tiles`, `no HG`."""
    for name, asked, weights in [
        ("TG", tissue, [level.tissue_guidance for level in bag.magnifications]),
        ("HG", heuristic is not None, [level.heuristic_guidance for level in bag.magnifications]),
    ]:
        if asked:
            count = sum(int(np.count_nonzero(level)) for level in weights)
            yield f"{name} on {count} tiles" if count else f"no {name}"
