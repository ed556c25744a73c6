"""The attention as OME-TIFF: read by tifffile, in the slide's frame, exact to its tiles."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.ome import Frame, paint, write_ome_tiff
from sagdeploy.report.scale import percentiles
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.slides.tiling import Tiles

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


@pytest.fixture
def written(prediction: Prediction, tmp_path: Path) -> Path:
    write_ome_tiff(tmp_path / "attention.ome.tif", prediction)
    return tmp_path / "attention.ome.tif"


def test_each_tile_has_its_attention_where_it_lies_on_the_slide(
    written: Path, prediction: Prediction
) -> None:
    attention, percentile = tifffile.imread(written)
    (tiles,), (weights,) = prediction.tiles, prediction.diagnosis.attention
    assert attention.shape == (7, 10)  # 650 and 1000 level-0 pixels, 100 a pixel
    columns, rows = (tiles.xy_l0 // 100).T
    np.testing.assert_array_equal(attention[rows, columns], weights)
    np.testing.assert_allclose(percentile[rows, columns], percentiles(weights), atol=1e-4)
    assert attention[6].max() == 0  # below the last whole tile


def test_it_says_how_large_its_pixels_are(written: Path) -> None:
    with tifffile.TiffFile(written) as file:
        assert file.is_ome
        pixels = ElementTree.fromstring(file.ome_metadata or "").find(f".//{OME}Pixels")
        assert pixels is not None
        assert float(pixels.get("PhysicalSizeX", "")) == 0.5 * 100
        assert pixels.get("PhysicalSizeXUnit") == "µm"
        names = [channel.get("Name") for channel in pixels.iter(f"{OME}Channel")]
        assert names == ["attention", "percentile"]
        per_cm = file.pages.first.tags["XResolution"].value
        assert 10_000 * per_cm[1] / per_cm[0] == pytest.approx(50)


def test_every_magnification_is_an_image(
    make_prediction: Callable[..., Prediction], tmp_path: Path
) -> None:
    prediction = make_prediction(scales=2)
    write_ome_tiff(tmp_path / "a.ome.tif", prediction)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert len(file.series) == 2
        for series, attention in zip(file.series, prediction.diagnosis.attention, strict=True):
            assert series.asarray()[0].max() == attention.max()


def large(prediction: Callable[..., Prediction], offset: int) -> Prediction:
    """15,300 tiles that begin `offset` px off the slide's corner."""
    x, y = np.arange(170) * 224 + offset, np.arange(90) * 224 + offset
    tiles = Tiles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (224, 224), (224, 224), 0.5)
    weights = np.random.default_rng(2).random(len(tiles)).astype(np.float32)
    base = prediction()
    diagnosis = Diagnosis(
        base.diagnosis.probabilities, base.diagnosis.logits, (weights / weights.sum(),)
    )
    return prediction(tiles=(tiles,), diagnosis=diagnosis, tissue_coverage=(np.ones(len(tiles)),))


def test_smaller_levels_hang_below_and_lose_no_hot_tile(
    make_prediction: Callable[..., Prediction], tmp_path: Path
) -> None:
    prediction = large(make_prediction, offset=37)
    slide = replace(prediction.slide, size_l0=(38_200, 20_300))
    write_ome_tiff(tmp_path / "a.ome.tif", replace(prediction, slide=slide))
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        (series,) = file.series
        assert [level.shape[1:] for level in series.levels] == [
            (725, 1365), (363, 683), (182, 342), (91, 171),
        ]  # fmt: skip
        peaks = {float(level.asarray()[0].max()) for level in series.levels}
        assert peaks == {float(prediction.diagnosis.attention[0].max())}


def test_the_same_prediction_gives_the_same_bytes(
    written: Path, prediction: Prediction, tmp_path: Path
) -> None:
    write_ome_tiff(tmp_path / "again.ome.tif", prediction)
    assert written.read_bytes() == (tmp_path / "again.ome.tif").read_bytes()


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 50))
def test_neighbours_neither_gap_nor_overlap(side: int, downsample: int, offset: int) -> None:
    x, y = np.arange(5) * side + offset, np.arange(3) * side + offset
    tiles = Tiles(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), (side, side), (8, 8), 0.5)
    plane = paint(Frame(downsample, (260, 180)), tiles, np.ones(len(tiles), np.float32))
    rows, columns = np.nonzero(plane)
    filled = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert len(rows) == filled or side < downsample
