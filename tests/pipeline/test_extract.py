"""Bags say where they come from, and are made anew only when that changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.bags.bag import read_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide, read_cohort
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.export.extractor import ExtractorSource, prepare_extractor
from sagdeploy.pipeline.extract import (
    EXTRACTOR_FILE,
    Extraction,
    extract_cohort,
    extract_slide,
    read_card,
)
from sagdeploy.serving.local import FileEngine
from sagdeploy.slides.tiling import TilePlan

PLAN = TilePlan(tile_px=112)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    prepare_extractor(ExtractorSource("stain_texture"), folder)
    return folder


@pytest.fixture(scope="module")
def extraction(bags: Path) -> Extraction:
    card = read_card(bags)
    return Extraction(FileEngine(bags / EXTRACTOR_FILE), card.name, card, PLAN)


@pytest.fixture
def row(painted: Path) -> CohortSlide:
    return slide_of(painted)


def slide_of(path: Path, slide_id: str = "slide", mpp: float | None = None) -> CohortSlide:
    return CohortSlide(slide_id, path, "benign", "train", slide_id, None, None, mpp)


def test_a_bag_says_where_it_comes_from(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    path = tmp_path / "slide.h5"
    message = extract_slide(row, path, extraction)
    bag = read_bag(path)
    (level,) = bag.magnifications
    assert message == f"{len(level)} tiles"
    assert bag.header.plan == PLAN
    assert bag.header.extractor == extraction.card
    assert bag.header.mpp == pytest.approx(0.5)
    assert bag.header.mpp_source == "metadata"
    assert level.tissue_coverage is not None
    assert level.tissue_coverage.min() >= PLAN.min_tissue
    assert not level.heuristic_guidance.any()


def test_the_same_slide_gives_the_same_bytes(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    extract_slide(row, one, replace(extraction, workers=1))
    extract_slide(row, two, replace(extraction, workers=3))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda e: replace(e, plan=replace(PLAN, mpp=(0.6,))),
        lambda e: replace(e, plan=replace(PLAN, min_tissue=0.5)),
        lambda e: replace(e, card=e.card.model_copy(update={"sha256": "1" * 64})),
    ],
)
def test_a_bag_is_made_anew_only_when_something_changed(
    change: Callable[[Extraction], Extraction],
    tmp_path: Path,
    row: CohortSlide,
    extraction: Extraction,
) -> None:
    path = tmp_path / "slide.h5"
    extract_slide(row, path, extraction)
    assert extract_slide(row, path, extraction) == "up to date"
    assert "tiles" in extract_slide(row, path, change(extraction))


def test_a_bag_that_is_cut_short_is_made_anew(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    path = tmp_path / "slide.h5"
    extract_slide(row, path, extraction)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "tiles" in extract_slide(row, path, extraction)
    assert path.read_bytes() == whole


def test_a_bad_slide_leaves_no_bag_and_stops_no_other(
    tmp_path: Path, painted: Path, extraction: Extraction
) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    rows = (slide_of(tmp_path / "text.svs", "bad"), slide_of(painted, "good"))
    cohort = Cohort(rows, ("benign", "malignant"), "0" * 64)
    outcomes = list(extract_cohort(cohort, tmp_path, extraction))
    assert [(o.slide_id, o.status, o.exit_code) for o in outcomes] == [
        ("bad", "failed", 3),
        ("good", "done", 0),
    ]
    assert not (tmp_path / "bad.h5").exists()


def test_the_cohorts_scale_wins(tmp_path: Path, painted: Path, extraction: Extraction) -> None:
    path = tmp_path / "slide.h5"
    extract_slide(slide_of(painted, mpp=0.4), path, extraction)
    header = read_bag(path).header
    assert (header.mpp, header.mpp_source) == (0.4, "cohort")


def test_a_folder_keeps_to_one_extractor(bags: Path) -> None:
    assert prepare_extractor(ExtractorSource("stain_texture"), bags) == read_card(bags)
    with pytest.raises(BagError, match="stain_texture"):
        prepare_extractor(ExtractorSource("mobilenet_v2", bags / "none.pt"), bags)


def test_an_extractor_of_one_size_takes_no_other(extraction: Extraction) -> None:
    fixed = extraction.card.model_copy(update={"tile_px": 224})
    with pytest.raises(ConfigError, match="224"):
        replace(extraction, card=fixed)


def test_an_unknown_extractor_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resnet99") as error:
        prepare_extractor(ExtractorSource("resnet99"), tmp_path)
    assert "mobilenet_v2" in error.value.hint


def test_several_magnifications_lie_in_one_bag(
    tmp_path: Path, cohort: Path, extraction: Extraction
) -> None:
    row = read_cohort(cohort).slides[0]
    wide = replace(extraction, plan=TilePlan("grid", (1.0, 0.5), grid=(3, 5)))
    extract_slide(row, tmp_path / "slide.h5", wide)
    coarse, fine = read_bag(tmp_path / "slide.h5").magnifications
    assert (len(coarse), len(fine)) == (9, 25)
    assert np.isfinite(coarse.features).all()
