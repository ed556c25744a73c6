"""Guidance into the bags of a cohort: from tissue, annotations, label masks or cells."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.bag import Bag, with_guidance
from sagdeploy.bags.bagfile import write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.bags.interchange import load_bag
from sagdeploy.errors import BagError
from sagdeploy.files import sweep
from sagdeploy.guidance.annotations import Annotations, write_geojson
from sagdeploy.guidance.weights import area_ratios
from sagdeploy.pipeline.heuristic import HULLS, Heuristic, Regions, regions_of
from sagdeploy.pipeline.journal import sole_writer
from sagdeploy.pipeline.outcome import SlideOutcome, each_slide
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.tiling import Tiles, coverage
from sagdeploy.slides.tissue import TissueMask, find_tissue

HULLS_SUFFIX = ".hulls.geojson"
HULL_CLASS = "Cell cluster"
"""Class of the written hulls, by which QuPath shows and hides them."""


def guide_cohort(
    cohort: Cohort, bags: Path, *, tissue: bool, heuristic: Heuristic | None
) -> Iterator[SlideOutcome]:
    """Write guidance into `bags/<slide_id>.h5` for each slide, in order.

    heuristic: where HG comes from; a slide for which the table names no file there gets HG of
        all zeros, which means none
    Hulls around cells are written to `bags/<slide_id>.hulls.geojson` too, for QuPath.
    Raises BagError where there is no folder, OutputError where another run writes into it.
    """
    if not bags.is_dir():
        raise BagError(f"{bags}: no folder of bags", hint="run sagdeploy extract")

    def work(row: CohortSlide) -> str:
        return guide_slide(row, bags / f"{row.slide_id}.h5", tissue=tissue, heuristic=heuristic)

    with sole_writer(bags):
        sweep(bags)
        yield from each_slide(
            cohort.slides, lambda row: row.slide_id, work, lambda row: row.slide_path
        )


def guide_slide(row: CohortSlide, path: Path, *, tissue: bool, heuristic: Heuristic | None) -> str:
    """Write guidance into one bag; says in a line what was done.

    A feature file of other software becomes a bag of ours, which TRIDENT's tools still read.
    """
    bag = _placed_bag(row, path)
    regions = None
    if heuristic is not None:
        size_l0, mpp = _size_l0(bag), bag.header.mpp
        assert mpp is not None  # a bag whose tiles have places has a scale
        regions = regions_of(row, heuristic, size_l0=size_l0, slide_mpp=mpp)
    mask = _tissue(row, bag.header.mpp) if tissue else None
    guided = guide_bag(bag, tissue=mask, annotations=regions)
    write_bag(path, guided)
    if heuristic in HULLS and isinstance(regions, Annotations):
        hulls = path.with_name(f"{row.slide_id}{HULLS_SUFFIX}")
        write_geojson(hulls, regions.regions, label=HULL_CLASS)
    return ", ".join(_told(guided, tissue=tissue, heuristic=heuristic))


def guide_bag(bag: Bag, *, tissue: TissueMask | None, annotations: Regions | None) -> Bag:
    """The bag with TG from a tissue mask and HG from annotations; what is not given stays."""
    size_l0 = _size_l0(bag)
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


def _placed_bag(row: CohortSlide, path: Path) -> Bag:
    """The bag in a file, with the scale of the slide itself where other software left it out."""
    bag = load_bag(path)
    if bag.header.mpp is not None:
        return bag
    with open_isolated(row.located()) as slide:
        mpp = slide.resolve_mpp(override=row.mpp, source="cohort")
        size_l0 = bag.header.slide_size_l0 or slide.size_l0
    bag = load_bag(path, mpp=mpp)
    header = bag.header.model_copy(update={"slide_id": row.slide_id, "slide_size_l0": size_l0})
    return Bag(header, bag.magnifications)


def _coverage(bag: Bag, regions: Regions) -> tuple[NDArray[np.float64], ...]:
    """Share of each tile that is covered, one (N,) a magnification."""
    if isinstance(regions, Annotations):
        return tuple(area_ratios(regions.regions, tiles) for tiles in _tiles(bag))
    size_l0 = _size_l0(bag)
    return tuple(coverage(regions, t.xy_l0, t.size_l0, size_l0) for t in _tiles(bag))


def _tiles(bag: Bag) -> Iterator[Tiles]:
    """The tiles of each magnification; BagError where nobody knows where they lie."""
    for magnification in bag.magnifications:
        if magnification.tiles is None:
            raise _unplaced(bag)
        yield magnification.tiles


def _size_l0(bag: Bag) -> tuple[int, int]:
    if bag.header.slide_size_l0 is None:
        raise _unplaced(bag)
    return bag.header.slide_size_l0


def _unplaced(bag: Bag) -> BagError:
    return BagError(
        f"{bag.header.slide_id}: its features ({bag.header.origin}) do not say where their "
        "tiles lie, so they cannot be guided",
        hint="make them with sagdeploy extract, TRIDENT or STAMP",
    )


def _tissue(row: CohortSlide, mpp: float | None) -> TissueMask:
    with open_isolated(row.located()) as slide:
        return find_tissue(slide, mpp)


def _told(bag: Bag, *, tissue: bool, heuristic: Heuristic | None) -> Iterator[str]:
    """What the bag's guidance covers: `TG on 12 tiles`, `no HG`."""
    for name, asked, weights in [
        ("TG", tissue, [each.tissue_guidance for each in bag.magnifications]),
        ("HG", heuristic is not None, [each.heuristic_guidance for each in bag.magnifications]),
    ]:
        if asked:
            count = sum(int(np.count_nonzero(each)) for each in weights)
            yield f"{name} on {count} tiles" if count else f"no {name}"
