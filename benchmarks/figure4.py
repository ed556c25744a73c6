"""A figure like the paper's Fig. 4: slide, HG, and attention without and with guidance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.cohort import Cohort
from sagdeploy.report.overlay import LEGEND_PX, MIN_WIDTH_PX, blend, render_overlay, shade_layer
from sagdeploy.report.scale import shades
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tiling import Tiles
from sagdeploy.training.checkpoint import load_model, read_results, read_run
from sagdeploy.training.dataset import LabelledBag, open_bags
from sagdeploy.training.inference import predict_bags

Pixels = NDArray[np.uint8]

WIDTH_PX = 640
GAP_PX = 12


def draw_row(cohort: Cohort, bags_folder: Path, runs: Sequence[tuple[str, Path]]) -> Pixels:
    """One held-out slide: as it is, its HG, and the attention of the first seed of each run.

    runs: what stands under each map, and the folder of the run
    """
    slide_id = _shown(cohort, runs[0][1])
    slides = [slide for slide in cohort.slides if slide.slide_id == slide_id]
    bag = open_bags(slides, bags_folder, classes=cohort.classes)[0]
    with open_slide(slides[0].located()) as slide:
        thumbnail, size_l0 = slide.thumbnail(WIDTH_PX), slide.size_l0
    level, tiles = _finest(bag)
    maps = [
        render_overlay(
            thumbnail,
            slide_size_l0=size_l0,
            tiles=tiles,
            attention=_attention(run, bag, level),
            title=name,
        )
        for name, run in runs
    ]
    guidance = _guided(thumbnail, size_l0, tiles, bag.heuristic_guidance[level].numpy())
    return _beside([_page(thumbnail), _page(guidance), *maps])


def stack(rows: Sequence[Pixels]) -> Pixels:
    """Rows of pictures below each other, filled up with white."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(
                row, ((0, GAP_PX), (0, width - row.shape[1]), (0, 0)), constant_values=np.uint8(255)
            )
            for row in rows
        ]
    )


def _shown(cohort: Cohort, run: Path) -> str:
    """The last slide with an annotation that the run's first seed did not learn from."""
    held_out = {slide.slide_id for slide in cohort.of_split("test")}
    held_out |= set(read_results(run)[0].held_out)
    known = [s for s in cohort.slides if s.slide_id in held_out and s.annotation_path is not None]
    return known[-1].slide_id


def _finest(bag: LabelledBag) -> tuple[int, Tiles]:
    """Index and tiles of the finest magnification."""
    known = [(index, tiles) for index, tiles in enumerate(bag.tiles) if tiles is not None]
    return min(known, key=lambda level: level[1].mpp)


def _attention(run: Path, bag: LabelledBag, level: int) -> NDArray[np.float32]:
    model = load_model(run, read_run(run), read_results(run)[0])
    (prediction,) = predict_bags(model, [bag])
    return prediction.attention[level].astype(np.float32)


def _guided(
    thumbnail: Pixels, size_l0: tuple[int, int], tiles: Tiles, guidance: NDArray[np.float32]
) -> Pixels:
    """The slide, with the tiles that have HG coloured by it."""
    covered = np.flatnonzero(guidance)
    if not len(covered):
        return thumbnail
    own = Tiles(tiles.xy_l0[covered], tiles.size_l0, tiles.size_px, tiles.mpp)
    height, width, _ = thumbnail.shape
    shade = shades(guidance[covered], "raw")
    layer = shade_layer((width, height), slide_size_l0=size_l0, tiles=own, shade=shade)
    return blend(thumbnail, layer)


def _page(picture: Pixels) -> Pixels:
    """A picture with the white that maps have for their legend."""
    height, width, _ = picture.shape
    page = np.full((height + LEGEND_PX, max(width, MIN_WIDTH_PX), 3), 255, np.uint8)
    page[:height, :width] = picture
    return page


def _beside(pictures: Sequence[Pixels]) -> Pixels:
    gap = np.full((len(pictures[0]), GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)], axis=1)
