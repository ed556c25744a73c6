"""Tiles of a cohort's slides, as the extractor will meet them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.slides.cutting import tiles_of
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.slides.tissue import TissueMask, find_tissue

SLIDES = 16
"""Slides that are sampled, and ..."""

TILES_A_SLIDE = 8
"""... tiles of each, at every magnification: 128 tiles show the range of activations, and 16
show nearly all of it."""

SLIDE_BYTES = 4 << 20
"""Most of one slide's tiles at a magnification, but for a single larger one."""

TISSUE = 0.5
"""Share of a tile that is tissue, so that what is sampled is not glass."""

SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class CutSlide:
    """An open slide, and how it is cut."""

    slide: Slide
    tiles: tuple[Tiles, ...]
    """One a magnification."""

    tissue: TissueMask


@contextmanager
def cut(row: CohortSlide, plan: TilePlan) -> Iterator[CutSlide]:
    """A slide of the cohort, open and cut by the plan.

    Its scale is taken as it was when its bag was made: on trust.
    """
    with open_isolated(row.located()) as slide:
        mpp = slide.resolve_mpp(override=row.mpp, source="cohort", trust=True).value
        tissue = find_tissue(slide, mpp)
        tiles = tiles_of(slide, tissue, plan, mpp=mpp)
        yield CutSlide(slide, tiles, tissue)


def sample_tiles(slides: Sequence[CohortSlide], plan: TilePlan) -> tuple[NDArray[np.uint8], ...]:
    """Some tissue of some slides: a batch (N, H, W, 3) a slide and magnification; seeded."""
    rng = np.random.default_rng(SEED)
    chosen = np.linspace(0, len(slides) - 1, min(SLIDES, len(slides))).round().astype(int)
    batches: list[NDArray[np.uint8]] = []
    for index in chosen:
        with cut(slides[index], plan) as found:
            for tiles in found.tiles:
                batches.append(_read(found.slide, tiles, _some(tiles, found, rng)))
    return tuple(batches)


def _some(tiles: Tiles, found: CutSlide, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which few of the tiles, on tissue where enough are."""
    width, height = tiles.size_px
    count = min(TILES_A_SLIDE, max(1, SLIDE_BYTES // (3 * width * height)), len(tiles))
    on_tissue = np.flatnonzero(found.tissue.coverage(tiles) >= TISSUE)
    among = on_tissue if len(on_tissue) >= count else np.arange(len(tiles))
    return np.sort(rng.choice(among, count, replace=False))


def _read(slide: Slide, tiles: Tiles, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    batch = np.empty((len(rows), *tiles.size_px[::-1], 3), np.uint8)
    slide.read_tiles(tiles.xy_l0[rows], size_l0=tiles.size_l0, size_px=tiles.size_px, out=batch)
    return batch
