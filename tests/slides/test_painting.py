from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sagdeploy.slides.anatomy import KINDS, LESION, join, plan_anatomy
from sagdeploy.slides.artefacts import Pen
from sagdeploy.slides.lattice import Box
from sagdeploy.slides.painting import Painting, plan_painting

# Wider than high, and a multiple of nothing: a swapped axis cannot pass.
SIZE = (930, 610)
SEED = 7


@lru_cache
def painting(grade: float = 1.0, pen: Pen | None = "green", seed: int = SEED) -> Painting:
    return plan_painting(seed=seed, size_l0=SIZE, mpp=0.5, grade=grade, pen=pen)


@lru_cache
def painted(grade: float = 1.0, pen: Pen | None = "green", seed: int = SEED) -> NDArray[np.uint8]:
    return painting(grade, pen, seed).region((0, 0), SIZE)


def depth(what: str) -> NDArray[np.float64]:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] * 1.0
    anatomy = painting().anatomy
    return anatomy.tissue_depth(x, y) if what == "tissue" else anatomy.lesion_depth(x, y)


@settings(max_examples=25)
@given(st.integers(0, 900), st.integers(0, 580), st.integers(1, 300), st.integers(1, 200))
def test_a_part_painted_by_itself_is_the_part_of_the_whole(
    x: int, y: int, width: int, height: int
) -> None:
    width, height = min(width, SIZE[0] - x), min(height, SIZE[1] - y)
    part = painting().region((x, y), (width, height))
    assert (part == painted()[y : y + height, x : x + width]).all()


def test_a_gland_cut_in_two_fits_together() -> None:
    large = plan_painting(seed=1, size_l0=(2592, 1904), mpp=0.5, grade=0.0, pen=None)
    gland = large.anatomy.glands(Box(0, 0, 2592, 1904)).box(0)
    xy, size = (gland.x, gland.y), (gland.width, gland.height)
    whole = large.region(xy, size)
    top = large.region(xy, (size[0], 31))
    bottom = large.region((xy[0], xy[1] + 31), (size[0], size[1] - 31))
    assert (np.vstack([top, bottom]) == whole).all()
    lumen = whole[size[1] // 2 - 3 : size[1] // 2 + 3, size[0] // 2 - 3 : size[0] // 2 + 3]
    assert lumen.mean() > 200


def test_a_seed_decides_the_picture() -> None:
    again = plan_painting(seed=SEED, size_l0=SIZE, mpp=0.5, grade=1.0, pen="green")
    assert (again.region((0, 0), SIZE) == painted()).all()
    assert (painted(seed=SEED + 1) != painted()).any()


def test_glass_is_white_and_tissue_is_pink() -> None:
    bare = painted(pen=None)
    glass = bare[depth("tissue") < -20].astype(float)
    stroma = bare[(depth("tissue") > 60) & (depth("lesion") < -20)].astype(float)
    assert (np.median(glass, axis=0) > 225).all()
    red, green, blue = np.median(stroma, axis=0)
    assert red > blue > green
    assert red - green > 40


def test_the_grade_shows_in_the_lesion_and_nowhere_else() -> None:
    differs = (painted(grade=0.0) != painted(grade=1.0)).any(axis=2)
    nucleus_px = 24
    assert not differs[depth("lesion") < -nucleus_px].any()
    assert differs[depth("lesion") > 0].mean() > 0.3


def test_a_higher_grade_has_darker_and_more_uneven_nuclei() -> None:
    lesion = depth("lesion") > 0
    red = [painted(grade=grade)[lesion][:, 0].astype(float) for grade in (0.0, 1 / 3, 2 / 3, 1.0)]
    spread = [float(values.std()) for values in red]
    darkest = [-float(np.percentile(values, 3)) for values in red]
    assert spread == sorted(spread)
    assert darkest == sorted(darkest)


def test_the_pen_marks_glass_alone() -> None:
    marked = (painted(pen="green") != painted(pen=None)).any(axis=2)
    assert marked.sum() > 1000
    assert not marked[depth("tissue") > 0].any()


def test_a_pen_that_touches_lies_mostly_in_the_tissues_box_and_on_glass() -> None:
    touching, bare = (
        plan_painting(seed=SEED, size_l0=SIZE, mpp=0.5, grade=1.0, pen=pen, pen_touches=True)
        for pen in ("green", None)
    )
    marked = (touching.region((0, 0), SIZE) != bare.region((0, 0), SIZE)).any(axis=2)
    assert not marked[depth("tissue") > 0].any()
    ink_xy, outline = np.argwhere(marked)[:, ::-1], painting().anatomy.tissue.vertices
    inside = ((ink_xy >= outline.min(axis=0)) & (ink_xy <= outline.max(axis=0))).all(axis=1)
    assert inside.sum() > 500
    assert inside.mean() > 0.6


@pytest.mark.parametrize(("pen", "brightest"), [("green", 1), ("blue", 2), ("red", 0)])
def test_a_pen_has_its_colour(pen: Pen, brightest: int) -> None:
    marked = (painted(pen=pen) != painted(pen=None)).any(axis=2)
    assert painted(pen=pen)[marked].mean(axis=0).argmax() == brightest


@pytest.mark.parametrize("seed", range(40))
def test_tissue_fills_a_part_of_the_slide_and_the_lesion_a_part_of_the_tissue(seed: int) -> None:
    anatomy = plan_anatomy(seed=seed, size_l0=SIZE, mpp=0.5, lesion_spacing_um=9)
    tissue, lesion = anatomy.tissue, anatomy.lesion
    assert 0.3 < tissue.area / (SIZE[0] * SIZE[1]) < 0.5
    assert 0.03 < lesion.area / tissue.area < 0.085
    assert (tissue.vertices > 0).all()
    assert (tissue.vertices < SIZE).all()
    assert (tissue.depth(*lesion.vertices.T) > 0).all()
    assert np.abs(np.asarray(tissue.centre) / SIZE - 0.5).max() > 0.02


def test_cells_of_two_halves_are_the_cells_of_the_whole() -> None:
    anatomy = painting().anatomy
    whole = anatomy.cells(Box(0, 0, *SIZE))
    halves = join(
        [anatomy.cells(Box(0, 0, 401, SIZE[1])), anatomy.cells(Box(401, 0, 529, SIZE[1]))]
    )
    assert len(whole) == len(halves) > 100
    assert {*map(tuple, whole.xy_l0)} == {*map(tuple, halves.xy_l0)}
    assert set(whole.kind.tolist()) == set(range(len(KINDS)))


def test_nuclei_are_where_the_cells_are() -> None:
    cells = painting().anatomy.cells(Box(0, 0, *SIZE))
    lesion = cells.where(cells.kind == LESION)
    x, y = np.rint(lesion.xy_l0).astype(int).T
    centres = painted()[y, x, 0].mean()
    assert centres < painted()[depth("lesion") > 0][:, 0].mean() - 30
