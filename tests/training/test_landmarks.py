from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from sagdeploy.bags.cohort import Cohort
from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.annotations import write_asap
from sagdeploy.training.baselines import CENTRE, DENSITY, UNIFORM, baselines
from sagdeploy.training.dataset import Bags, open_bags
from sagdeploy.training.landmarks import Landmarks, read_landmarks

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]

SIDE = 448  # of the toy's tiles at level 0, whose first three are a tumour's region


@pytest.fixture
def annotated(make_toy: MakeToy, tmp_path: Path) -> Toy:
    """The toy cohort, where tumours have their region outlined and cells around its middle."""
    cohort, folder = make_toy()
    outline, cells = tmp_path / "region.xml", tmp_path / "cells.csv"
    write_asap(outline, [shapely.box(0, 0, 3 * SIDE, 400)])
    cells.write_text("x,y\n" + "".join(f"{600 + i},{200 + i}\n" for i in range(9)))
    slides = tuple(
        replace(slide, annotation_path=outline, cells_path=cells)
        if slide.label == "tumour"
        else slide
        for slide in cohort.slides
    )
    return replace(cohort, slides=slides), folder


def held_out(toy: Toy) -> Bags:
    cohort, folder = toy
    return open_bags(cohort.of_split("test"), folder, classes=cohort.classes)


def test_a_class_without_annotations_is_normal(annotated: Toy) -> None:
    landmarks = read_landmarks(held_out(annotated))
    assert landmarks.normal == {0}
    assert len(landmarks.lesions) == len(landmarks.cells) == 3
    assert landmarks.left_out == {}


def test_without_files_it_is_said_what_is_left_out(toy: Toy) -> None:
    landmarks = read_landmarks(held_out(toy))
    assert landmarks.normal == frozenset()
    assert set(landmarks.left_out) == {"froc", "nuclear density"}


def test_annotations_of_every_class_leave_no_slide_to_count_false_alarms_on(
    annotated: Toy,
) -> None:
    cohort, folder = annotated
    outline = next(slide.annotation_path for slide in cohort.slides if slide.annotation_path)
    slides = tuple(replace(slide, annotation_path=outline) for slide in cohort.slides)
    landmarks = read_landmarks(held_out((replace(cohort, slides=slides), folder)))
    assert "every class" in landmarks.left_out["froc"]


def test_a_file_that_is_gone_leaves_its_slide_out(annotated: Toy) -> None:
    cohort, folder = annotated
    gone = next(slide for slide in cohort.of_split("test") if slide.annotation_path)
    lost = replace(gone, annotation_path=Path("gone.xml"), cells_path=Path("gone.csv"))
    slides = tuple(lost if slide is gone else slide for slide in cohort.slides)
    landmarks = read_landmarks(held_out((replace(cohort, slides=slides), folder)))
    assert gone.slide_id not in landmarks.lesions
    assert gone.slide_id not in landmarks.cells
    assert landmarks.normal == {0}


def test_a_map_of_cells_is_read_as_guidance_reads_it(annotated: Toy, tmp_path: Path) -> None:
    cohort, folder = annotated
    bags = held_out(annotated)
    source = next(s for s in bags.sources if s.slide.cells_path is not None)
    assert source.slide_size_l0 is not None
    assert source.slide_mpp is not None
    size_px = [round(side * source.slide_mpp) for side in source.slide_size_l0]  # 1 um a pixel
    map_of_one = np.zeros(size_px[::-1], np.uint8)
    map_of_one[20:26, 30:36] = 255
    Image.fromarray(map_of_one).save(tmp_path / "map.png")
    row = replace(source.slide, cells_path=tmp_path / "map.png")
    slides = tuple(row if s.slide_id == row.slide_id else s for s in cohort.slides)
    found = read_landmarks(held_out((replace(cohort, slides=slides), folder)))
    centre = np.array([33, 23]) / source.slide_mpp
    np.testing.assert_allclose(found.cells[row.slide_id], [centre])


def test_a_damaged_annotation_is_an_error(annotated: Toy) -> None:
    cohort, _ = annotated
    path = next(slide.annotation_path for slide in cohort.slides if slide.annotation_path)
    path.write_text("<ASAP")
    with pytest.raises(AnnotationError):
        read_landmarks(held_out(annotated))


def test_maps_that_know_no_model_are_measured(annotated: Toy, tmp_path: Path) -> None:
    cohort, folder = annotated
    strayed = next(slide for slide in cohort.of_split("test") if slide.cells_path)
    cells = tmp_path / "strayed.csv"  # two on the second tile, one on the fourth
    cells.write_text(f"x,y\n600,200\n610,210\n{3.5 * SIDE},200\n")
    slides = tuple(
        replace(slide, cells_path=cells) if slide is strayed else slide for slide in cohort.slides
    )
    bags = held_out((replace(cohort, slides=slides), folder))
    found = baselines(bags, read_landmarks(bags), resamples=50)
    tissue = [bag.tissue_coverage[0] for bag in bags if bag.label]
    expected = np.mean([2.25 / share.sum() for share in tissue if share is not None])
    assert found[UNIFORM]["attention_on_heuristic"].value == pytest.approx(expected)
    # three quarters of the second tile are the region, and nothing of the fourth
    assert found[DENSITY]["attention_on_heuristic"].value == pytest.approx((0.75 * 2 + 0.5) / 3)
    assert found[DENSITY]["attention_on_heuristic"].method.endswith("over patients")
    assert "pointing_game" not in found[DENSITY]  # 1 on every slide: no interval to give
    # the region is at the left end of the row of tiles, which the middle of it says nothing of
    assert 0 < found[CENTRE]["attention_on_heuristic"].value < expected


def test_a_map_that_no_slide_has_is_left_out(toy: Toy) -> None:
    assert set(baselines(held_out(toy), Landmarks(), resamples=20)) == {UNIFORM, CENTRE}
