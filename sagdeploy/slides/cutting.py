"""How an open slide is cut into tiles."""

from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import TilePlan, Tiles, plan_tiles
from sagdeploy.slides.tissue import TissueMask


def tiles_of(slide: Slide, tissue: TissueMask, plan: TilePlan, *, mpp: float) -> tuple[Tiles, ...]:
    """The tiles of a slide, one Tiles a magnification of the plan; see `plan_tiles`.

    mpp: microns per level-0 pixel, as resolved for the slide
    """
    return plan_tiles(
        plan,
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        slide_mpp=mpp,
        mask=tissue.mask,
        name=slide.name,
    )
