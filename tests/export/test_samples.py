"""Tiles for calibration are cut as the bags were."""

from pathlib import Path

from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.export.samples import cut
from sagdeploy.slides.tiling import TilePlan


def test_a_slide_is_cut_at_the_cohorts_scale(painted: Path) -> None:
    row = CohortSlide("a", painted, "benign", "val", "a", None, None, 2.0)
    with cut(row, TilePlan(mpp=(2.0,), tile_px=64)) as found:
        assert found.tissue.mask.shape == (1104 // 4, 1504 // 4)  # 8 microns a pixel
        (tiles,) = found.tiles
        assert tiles.size_l0 == (64, 64)
