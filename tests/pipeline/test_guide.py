from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from shapely import MultiPolygon, box

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import BagError, OutputError
from sagdeploy.guidance.annotations import Annotations, outlined, read_annotations, write_asap
from sagdeploy.manifest import ExtractorCard
from sagdeploy.pipeline.guide import guide_bag, guide_cohort
from sagdeploy.pipeline.heuristic import Heuristic
from sagdeploy.pipeline.journal import sole_writer
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import PaintedSlide, SlideSpec, paint_slide
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.slides.tissue import TissueMask, find_tissue
from tests.bags.foreign import write_clam, write_trident

SIZE_L0 = (1296, 960)  # wider than high
PLAN = TilePlan(kind="grid", mpp=(1.0, 2.0), grid=(6, 3))


def make_magnification(side: int, tile_l0: tuple[int, int], mpp: float) -> Magnification:
    """side x side tiles over the whole slide, row by row."""
    width, height = tile_l0
    x, y = np.meshgrid(np.arange(side) * width, np.arange(side) * height)
    xy_l0 = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.int64)
    features = np.random.default_rng(side).standard_normal((side**2, 4), dtype=np.float32)
    return Magnification(Tiles(xy_l0, tile_l0, (8, 6), mpp), features)


def make_bag(slide_id: str = "s1") -> Bag:
    header = BagHeader(
        slide_id=slide_id,
        slide_size_l0=SIZE_L0,
        mpp=0.5,
        mpp_source="metadata",
        plan=PLAN,
        extractor=ExtractorCard(name="stain_texture", features=4, weights="none", sha256="a" * 64),
        slide_sha256="b" * 64,
    )
    return Bag(
        header, (make_magnification(6, (216, 160), 1.0), make_magnification(3, (432, 320), 2.0))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def painted(folder: Path) -> PaintedSlide:
    return paint_slide(folder / "s1.tiff", SlideSpec(seed=1, size_l0=SIZE_L0))


@pytest.fixture
def row(folder: Path, painted: PaintedSlide) -> CohortSlide:
    """The painted slide, its outlined lesion and its lesion's cells."""
    write_asap(folder / "s1.xml", outlined([painted.lesion_l0]))
    cells = "".join(f"{x},{y}\n" for x, y in painted.lesion_l0)
    (folder / "s1.csv").write_text("x_l0,y_l0\n" + cells)
    return CohortSlide(
        "s1",
        folder / "s1.tiff",
        "tumour",
        annotation_path=folder / "s1.xml",
        cells_path=folder / "s1.csv",
    )


def guided(
    bags: Path, *rows: CohortSlide, tissue: bool = False, heuristic: Heuristic | None = None
) -> list[SlideOutcome]:
    cohort = Cohort(rows, ("normal", "tumour"), "c" * 64)
    return list(guide_cohort(cohort, bags, tissue=tissue, heuristic=heuristic))


def test_annotations_guide_every_magnification() -> None:
    annotations = Annotations(MultiPolygon([box(432, 0, 864, 160)]))
    fine, coarse = guide_bag(make_bag(), tissue=None, annotations=annotations).magnifications
    assert np.flatnonzero(fine.heuristic_guidance).tolist() == [2, 3]
    assert fine.heuristic_guidance[[2, 3]].tolist() == [0.5, 0.5]
    assert np.flatnonzero(coarse.heuristic_guidance).tolist() == [1]
    assert fine.tissue_coverage is None


def test_tissue_and_label_masks_are_stretched_over_the_slide() -> None:
    mask = np.zeros((6, 12), bool)
    mask[2:4, :2] = True
    tissue = TissueMask(mask, SIZE_L0, 0.1)
    fine, _ = guide_bag(make_bag(), tissue=tissue, annotations=mask[::-1]).magnifications
    assert np.flatnonzero(fine.tissue_guidance).tolist() == [12, 18]
    assert np.flatnonzero(fine.heuristic_guidance).tolist() == [12, 18]


def test_tissue_of_another_slide_is_refused() -> None:
    tissue = TissueMask(np.ones((6, 9), bool), SIZE_L0[::-1], 0.1)
    with pytest.raises(BagError, match="its bag is of"):
        guide_bag(make_bag(), tissue=tissue, annotations=None)


def test_tissue_is_looked_for_at_the_scale_of_the_bag(tmp_path: Path, row: CohortSlide) -> None:
    """As when the bag was made: the cohort, not the slide, may have given it."""
    bag = make_bag()
    header = bag.header.model_copy(update={"mpp": 2.0, "mpp_source": "cohort"})
    write_bag(tmp_path / "s1.h5", Bag(header, bag.magnifications))
    guided(tmp_path, row, tissue=True, heuristic=None)
    magnification = read_bag(tmp_path / "s1.h5").magnifications[0]
    assert magnification.tiles is not None
    assert magnification.tissue_coverage is not None
    with open_slide(row.located()) as slide:
        expected = find_tissue(slide, 2.0).coverage(magnification.tiles)
        other = find_tissue(slide, 0.5).coverage(magnification.tiles)
    np.testing.assert_allclose(magnification.tissue_coverage, expected, atol=1e-6)
    assert not np.allclose(expected, other, atol=1e-3)


def test_tissue_and_annotations_reach_the_bag(
    tmp_path: Path, row: CohortSlide, painted: PaintedSlide
) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    (outcome,) = guided(tmp_path, row, tissue=True, heuristic="annotations")
    assert (outcome.slide_id, outcome.status, outcome.exit_code) == ("s1", "done", 0)
    bag = read_bag(tmp_path / "s1.h5")
    lesion = outlined([painted.lesion_l0])
    for magnification in bag.magnifications:
        assert magnification.tiles is not None
        width, height = magnification.tiles.size_l0
        coverage = magnification.heuristic_coverage
        assert coverage is not None
        assert coverage.sum() * width * height == pytest.approx(lesion.area, rel=1e-4)
        assert (magnification.tissue_guidance[coverage > 0.5] > 0).all()
        assert magnification.tissue_guidance.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(
        bag.magnifications[0].features, make_bag().magnifications[0].features
    )


def test_cells_reach_the_bag(tmp_path: Path, row: CohortSlide) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    (outcome,) = guided(tmp_path, row, heuristic="cells")
    assert outcome.status == "done"
    assert outcome.message.startswith("HG on ")
    magnification = read_bag(tmp_path / "s1.h5").magnifications[0]
    assert magnification.heuristic_guidance.sum() == pytest.approx(1)
    assert magnification.tissue_coverage is None


def hulls_of(bags: Path) -> MultiPolygon:
    return read_annotations(bags / "s1.hulls.geojson").regions


def test_hulls_of_cells_are_written_for_qupath(
    tmp_path: Path, row: CohortSlide, painted: PaintedSlide
) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    guided(tmp_path, row, heuristic="cells")
    hull = outlined([painted.lesion_l0]).convex_hull
    assert hulls_of(tmp_path).symmetric_difference(hull).area < 1
    assert read_annotations(tmp_path / "s1.hulls.geojson").labels == ("Cell cluster",)
    guided(tmp_path, replace(row, cells_path=None), heuristic="cells")
    assert hulls_of(tmp_path).is_empty


def test_a_detection_map_reaches_the_bag(tmp_path: Path, row: CohortSlide) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    cells = np.zeros((480, 648), np.uint8)  # 10x of the slide
    cells[20:30:2, 600:640:4] = 255
    Image.fromarray(cells).save(tmp_path / "map.png")
    guided(tmp_path, replace(row, cells_path=tmp_path / "map.png"), heuristic="cells")
    magnification = read_bag(tmp_path / "s1.h5").magnifications[0]
    assert np.flatnonzero(magnification.heuristic_guidance).tolist() == [5]
    assert hulls_of(tmp_path).bounds == (1201, 41, 1273, 57)


def test_ndp_view_s_cells_need_a_slide_that_knows_its_glass(
    tmp_path: Path, row: CohortSlide
) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    (tmp_path / "s1.ndpa").write_text("<annotations></annotations>")
    (outcome,) = guided(tmp_path, replace(row, cells_path=tmp_path / "s1.ndpa"), heuristic="cells")
    assert outcome.exit_code == 2
    assert "where on the glass" in outcome.message


def test_detected_cells_need_no_file(tmp_path: Path, row: CohortSlide) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    without = replace(row, annotation_path=None, cells_path=None)
    (outcome,) = guided(tmp_path, without, heuristic="detected-cells")
    assert outcome.message.startswith("HG on ")
    assert hulls_of(tmp_path).area > 0


def trident_file(bags: Path) -> None:
    xy_l0 = np.array([[0, 0], [512, 0], [0, 512], [512, 512]])
    features = np.random.default_rng(0).standard_normal((4, 4), dtype=np.float32)
    write_trident(bags / "s1.h5", features, xy_l0, size_l0=SIZE_L0)


def test_trident_s_features_are_guided_and_stay_trident_s(
    tmp_path: Path, row: CohortSlide, painted: PaintedSlide
) -> None:
    trident_file(tmp_path)
    (outcome,) = guided(tmp_path, row, tissue=True, heuristic="annotations")
    assert outcome.status == "done"
    bag = read_bag(tmp_path / "s1.h5")
    (magnification,) = bag.magnifications
    assert bag.header.origin == "TRIDENT, 256 px at 20x, overlap 0"
    assert (bag.header.mpp, bag.header.mpp_source) == (0.5, "metadata")
    boxes = [box(x, y, x + 512, y + 512) for x in (0, 512) for y in (0, 512)]
    covered = outlined([painted.lesion_l0]).intersection(MultiPolygon(boxes)).area
    assert magnification.heuristic_coverage is not None
    assert magnification.heuristic_coverage.sum() * 512**2 == pytest.approx(covered)
    with h5py.File(tmp_path / "s1.h5") as file:
        assert file["coords"].attrs["patch_size_level0"] == 512
        assert file["features"].attrs["encoder"] == "uni_v1"


def test_features_without_places_cannot_be_guided(tmp_path: Path, row: CohortSlide) -> None:
    write_clam(tmp_path / "s1.h5", np.ones((3, 4), np.float32), np.zeros((3, 2), np.int64))
    before = (tmp_path / "s1.h5").read_bytes()
    (outcome,) = guided(tmp_path, row, heuristic="annotations")
    assert outcome.exit_code == 2
    assert "(CLAM) do not say where their tiles lie" in outcome.message
    assert (tmp_path / "s1.h5").read_bytes() == before


@pytest.mark.parametrize("heuristic", ["annotations", "mask"])
def test_a_label_mask_reaches_the_bag(
    tmp_path: Path, row: CohortSlide, heuristic: Heuristic
) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    white = np.zeros((96, 130), np.uint8)
    white[:10, -10:] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    guided(
        tmp_path,
        replace(row, annotation_path=tmp_path / "mask.png"),
        heuristic=heuristic,
    )
    magnification = read_bag(tmp_path / "s1.h5").magnifications[0]
    assert np.flatnonzero(magnification.heuristic_guidance).tolist() == [5]


@pytest.mark.parametrize("heuristic", ["annotations", "cells"])
def test_a_slide_without_a_file_loses_its_guidance(
    tmp_path: Path, row: CohortSlide, heuristic: Heuristic
) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    guided(tmp_path, row, heuristic="annotations")
    without = replace(row, annotation_path=None, cells_path=None)
    (outcome,) = guided(tmp_path, without, heuristic=heuristic)
    assert (outcome.status, outcome.message) == ("done", "no HG")
    assert not read_bag(tmp_path / "s1.h5").magnifications[0].heuristic_guidance.any()


def test_a_bad_slide_does_not_stop_the_others(tmp_path: Path, row: CohortSlide) -> None:
    for slide_id in ("s1", "s2", "s4"):
        write_bag(tmp_path / f"{slide_id}.h5", make_bag(slide_id))
    outcomes = guided(
        tmp_path,
        replace(row, slide_id="s2", annotation_path=tmp_path / "missing.xml"),
        replace(row, slide_id="s3"),
        replace(row, slide_id="s4", slide_path=tmp_path / "missing.svs"),
        row,
        tissue=True,
        heuristic="annotations",
    )
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "failed", "done"]
    assert [outcome.exit_code for outcome in outcomes] == [2, 2, 3, 0]
    assert outcomes[0].message.startswith("annotations: ")
    assert str(tmp_path) not in "".join(outcome.message for outcome in outcomes)
    assert outcomes[1].message.startswith("no such bag")
    assert read_bag(tmp_path / "s2.h5").magnifications[0].tissue_coverage is None


def test_bags_that_another_run_writes_are_left_alone(tmp_path: Path, row: CohortSlide) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    before = (tmp_path / "s1.h5").read_bytes()
    with sole_writer(tmp_path), pytest.raises(OutputError, match="another run"):
        guided(tmp_path, row, tissue=True)
    assert (tmp_path / "s1.h5").read_bytes() == before


def test_no_other_run_writes_while_bags_are_guided(tmp_path: Path, row: CohortSlide) -> None:
    write_bag(tmp_path / "s1.h5", make_bag())
    (tmp_path / ".partial-left.h5").touch()
    cohort = Cohort((row,), ("normal", "tumour"), "c" * 64)
    outcomes = guide_cohort(cohort, tmp_path, tissue=True, heuristic=None)
    assert next(outcomes).status == "done"
    with pytest.raises(OutputError, match="guide"), sole_writer(tmp_path):
        pass
    assert list(outcomes) == []
    with sole_writer(tmp_path):
        assert not (tmp_path / ".partial-left.h5").exists()


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, row: CohortSlide) -> None:
    with pytest.raises(BagError, match="no folder of bags"):
        guided(tmp_path / "none", row, tissue=True)
    assert not (tmp_path / "none").exists()
