"""Bags say where they come from, and are made anew only when that changes."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest

from sagdeploy.bags.bag import with_guidance
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.card import read_card
from sagdeploy.bags.cohort import Cohort, CohortSlide, read_cohort
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.export.extractor import ExtractorSource, prepare_extractor
from sagdeploy.pipeline.bagging import Extraction, ExtractTask, extract_slide
from sagdeploy.pipeline.extract import EXTRACTOR_FILE, extract_cohort
from sagdeploy.pipeline.run import read_run
from sagdeploy.serving.local import FileEngine
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.slides.tissue import find_tissue
from tests import dicom
from tests.bigtiff import without_tiles

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
    outcome = extract_slide(tmp_path, extraction, ExtractTask(row)).outcome
    bag = read_bag(tmp_path / "slide.h5")
    (magnification,) = bag.magnifications
    assert outcome.message == f"{len(magnification)} tiles"
    assert bag.header.plan == PLAN
    assert bag.header.extractor == extraction.card
    assert bag.header.mpp == pytest.approx(0.5)
    assert bag.header.mpp_source == "metadata"
    assert magnification.tissue_coverage is not None
    assert magnification.tissue_coverage.min() >= PLAN.min_tissue
    assert not magnification.heuristic_guidance.any()


def test_the_same_slide_gives_the_same_bytes(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    extract_slide(one, replace(extraction, workers=1), ExtractTask(row))
    extract_slide(two, replace(extraction, workers=3), ExtractTask(row))
    assert (one / "slide.h5").read_bytes() == (two / "slide.h5").read_bytes()


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
    first = extract_slide(tmp_path, extraction, ExtractTask(row))
    again = extract_slide(tmp_path, extraction, ExtractTask(row))
    assert (again.outcome.message, again.sha256) == ("up to date", first.sha256)
    assert "tiles" in extract_slide(tmp_path, change(extraction), ExtractTask(row)).outcome.message


def test_a_bag_that_is_cut_short_is_made_anew(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    path = tmp_path / "slide.h5"
    extract_slide(tmp_path, extraction, ExtractTask(row))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "tiles" in extract_slide(tmp_path, extraction, ExtractTask(row)).outcome.message
    assert path.read_bytes() == whole


def test_a_bag_with_a_changed_feature_is_made_anew(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    cohort = Cohort((row,), ("benign",), "0" * 64)
    list(extract_cohort(cohort, tmp_path, extraction))
    path = tmp_path / "slide.h5"
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file["features"][3, 2] += 1
    (outcome,) = extract_cohort(cohort, tmp_path, extraction)
    assert "tiles" in outcome.message
    assert path.read_bytes() == whole


def test_guidance_does_not_make_a_bag_old(
    tmp_path: Path, row: CohortSlide, extraction: Extraction
) -> None:
    cohort = Cohort((row,), ("benign",), "0" * 64)
    list(extract_cohort(cohort, tmp_path, extraction))
    bag = read_bag(tmp_path / "slide.h5")
    guided = with_guidance(bag, heuristic=[np.ones(len(bag.magnifications[0]))])
    write_bag(tmp_path / "slide.h5", guided)
    (outcome,) = extract_cohort(cohort, tmp_path, extraction)
    assert outcome.message == "up to date"


def test_the_first_bad_slide_ends_an_extraction_that_is_to_fail_fast(
    tmp_path: Path, painted: Path, extraction: Extraction
) -> None:
    rows = (slide_of(tmp_path / "missing.svs", "bad"), slide_of(painted, "good"))
    cohort = Cohort(rows, ("benign",), "0" * 64)
    (outcome,) = extract_cohort(cohort, tmp_path, extraction, fail_fast=True)
    assert outcome.slide_id == "bad"
    run = read_run(tmp_path / "run.json")
    assert (run.status, run.exit_code) == ("stopped", 8)
    assert [row.status for row in run.slides] == ["failed", "unfinished"]


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


def test_missing_pixels_are_told_and_too_many_leave_no_bag(
    tmp_path: Path, painted: Path, extraction: Extraction
) -> None:
    for name, gone in (("holed", range(13, 15)), ("gone", range(100))):
        path = tmp_path / f"{name}.tiff"
        path.write_bytes(without_tiles(painted.read_bytes(), gone))
    rows = [slide_of(tmp_path / f"{name}.tiff", name) for name in ("holed", "gone")]
    holed, refused = (extract_slide(tmp_path, extraction, ExtractTask(r)).outcome for r in rows)
    assert re.fullmatch(r"\d+ tiles; missing_pixels: \d+\.\d % of .*", holed.message)
    assert (tmp_path / "holed.h5").exists()
    assert (refused.status, refused.exit_code) == ("not_analysable", 4)
    assert refused.message.startswith("100.0 % of the pixels")
    assert not (tmp_path / "gone.h5").exists()


def test_the_cohorts_scale_wins(tmp_path: Path, painted: Path, extraction: Extraction) -> None:
    extract_slide(tmp_path, extraction, ExtractTask(slide_of(painted, mpp=0.4)))
    header = read_bag(tmp_path / "slide.h5").header
    assert (header.mpp, header.mpp_source) == (0.4, "cohort")


def test_tissue_is_looked_for_at_the_cohorts_scale(tmp_path: Path, extraction: Extraction) -> None:
    path = tmp_path / "large.tiff"
    paint_slide(path, SlideSpec(seed=3, size_l0=(4100, 3000), grade=1.0))
    extract_slide(tmp_path, extraction, ExtractTask(slide_of(path, mpp=0.7)))
    (magnification,) = read_bag(tmp_path / "slide.h5").magnifications
    assert magnification.tiles is not None
    with open_slide(path) as slide:
        expected = find_tissue(slide, 0.7).coverage(magnification.tiles)
        own = find_tissue(slide, 0.5).coverage(magnification.tiles)
    np.testing.assert_array_equal(magnification.tissue_coverage, expected)
    assert not np.array_equal(expected, own)


def test_a_slide_that_is_written_to_while_it_is_read_leaves_no_bag(
    tmp_path: Path, painted: Path, extraction: Extraction
) -> None:
    path = Path(shutil.copy(painted, tmp_path / "named_patient.tiff"))
    result = extract_slide(
        tmp_path, extraction, ExtractTask(slide_of(path)), progress=lambda _: path.touch()
    )
    assert result.outcome.exit_code == 3
    assert result.outcome.message == "changed while it was read; copy the slide again"
    assert not (tmp_path / "slide.h5").exists()


def test_a_slide_whose_storage_fails_is_no_bug(
    tmp_path: Path, painted: Path, extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", fail)
    result = extract_slide(tmp_path, extraction, ExtractTask(slide_of(painted)))
    assert result.outcome.exit_code == 3
    assert result.outcome.message == "Input/output error; check the storage"


def test_a_bag_of_a_slide_of_several_files_is_made_anew_when_one_of_them_changes(
    tmp_path: Path, shared_data: Path, extraction: Extraction
) -> None:
    whole, half = dicom.write_series(tmp_path / "slide", shared_data / "slides" / dicom.NAME)
    task = ExtractTask(slide_of(whole, mpp=0.5))
    extract_slide(tmp_path, extraction, task)
    assert extract_slide(tmp_path, extraction, task).outcome.message == "up to date"
    half.write_bytes(half.read_bytes() + bytes(2))
    assert "tiles" in extract_slide(tmp_path, extraction, task).outcome.message


def test_a_folder_keeps_to_one_extractor(bags: Path) -> None:
    assert prepare_extractor(ExtractorSource("stain_texture"), bags) == read_card(bags)
    with pytest.raises(BagError, match="stain_texture"):
        prepare_extractor(ExtractorSource("mobilenet_v2", bags / "none.pt"), bags)


def test_a_file_with_another_mean_is_another_extractor(tmp_path: Path) -> None:
    body = "<int64[2] sides = {2, 3}> {y = ReduceMean<keepdims = 0>(x, sides)}"
    graph = f"g (float[N,3,H,W] x) => (float[N,3] y) {body}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {graph}')
    onnx.save(model, tmp_path / "a.onnx")
    source = ExtractorSource(str(tmp_path / "a.onnx"))
    card = prepare_extractor(source, tmp_path / "bags")
    assert prepare_extractor(source, tmp_path / "bags") == card
    with pytest.raises(BagError, match=r"a \(a.onnx, .* mean 0.485 0.456 0.406"):
        prepare_extractor(replace(source, mean=(0.5, 0.5, 0.5)), tmp_path / "bags")


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
    extract_slide(tmp_path, wide, ExtractTask(row))
    coarse, fine = read_bag(tmp_path / f"{row.slide_id}.h5").magnifications
    assert (len(coarse), len(fine)) == (9, 25)
    assert np.isfinite(coarse.features).all()
