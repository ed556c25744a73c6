"""Nuclei of a whole slide, found where its tissue is, in bounded memory."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sagdeploy.guidance.detection import detect_cells
from sagdeploy.pipeline.stream import cores
from sagdeploy.slides.cutting import tiles_of
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.slides.tissue import TissueMask

DETECTION_MPP = 0.5
"""Microns per pixel at which nuclei are looked for."""

BLOCK_PX = 1024
"""Side of what is looked at at once, about 100 MiB for each worker; square if the tissue is."""

MARGIN_PX = 32
"""What is seen around a block, so that its edges find the same nuclei as its middle."""


def find_cells(
    slide: Slide,
    tissue: TissueMask,
    *,
    slide_mpp: float,
    workers: int | None = None,
    block_px: int = BLOCK_PX,
) -> NDArray[np.float64]:
    """Centres of the nuclei on a slide's tissue, (N, 2) x, y at level 0, block by block.

    workers: blocks looked at at once; all cores by default
    NotAnalysableError where the slide is too coarse for nuclei.
    """
    blocks = _blocks(slide, tissue, slide_mpp, block_px)

    def work(xy_l0: list[int]) -> NDArray[np.float64]:
        return _in_block(slide, blocks, xy_l0[0], xy_l0[1])

    with ThreadPoolExecutor(workers or cores()) as pool:
        found = list(pool.map(work, blocks.xy_l0.tolist()))
    xy_l0 = np.concatenate([*found, np.empty((0, 2))])
    return xy_l0[_on_tissue(xy_l0, tissue)]


def _blocks(slide: Slide, tissue: TissueMask, slide_mpp: float, block_px: int) -> Tiles:
    """The blocks that have tissue, of a grid that covers all of it."""
    _, _, width, height = tissue.bounding_box_l0()
    side_l0 = block_px * DETECTION_MPP / slide_mpp
    crops = max(1, math.ceil(math.sqrt(width * height) / side_l0))
    plan = TilePlan(kind="grid", mpp=(DETECTION_MPP,), grid=(crops,))
    (tiles,) = tiles_of(slide, tissue, plan, mpp=slide_mpp)
    has_tissue = tissue.coverage(tiles) > 0
    return Tiles(tiles.xy_l0[has_tissue], tiles.size_l0, tiles.size_px, tiles.mpp)


def _in_block(slide: Slide, blocks: Tiles, x_l0: int, y_l0: int) -> NDArray[np.float64]:
    """Nuclei whose centre lies in the block at a corner, (N, 2) at level 0."""
    size_px = np.array(blocks.size_px)
    scale = np.array(blocks.size_l0) / size_px  # level-0 pixels a pixel
    margin_l0 = np.round(MARGIN_PX * scale).astype(int)
    seen_l0 = np.array(blocks.size_l0) + 2 * margin_l0
    width, height = (size_px + 2 * MARGIN_PX).tolist()
    corner = (int(x_l0 - margin_l0[0]), int(y_l0 - margin_l0[1]))
    rgb = slide.read(corner, (int(seen_l0[0]), int(seen_l0[1])), (width, height))
    xy_px = detect_cells(rgb, blocks.mpp) + 0.5 - MARGIN_PX
    inside = ((xy_px >= 0) & (xy_px < size_px)).all(axis=1)
    xy_l0: NDArray[np.float64] = xy_px[inside] * scale + (x_l0, y_l0)
    return xy_l0


def _on_tissue(xy_l0: NDArray[np.float64], tissue: TissueMask) -> NDArray[np.bool_]:
    size = np.array(tissue.mask.shape[::-1])
    column, row = (xy_l0 * size / tissue.size_l0).astype(int).clip(0, size - 1).T
    on_tissue: NDArray[np.bool_] = tissue.mask[row, column]
    return on_tissue
