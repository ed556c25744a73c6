"""A slide's diagnosis does not depend on how it was computed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import NotAnalysableError, SlideError
from sagdeploy.manifest import diagnosis_name
from sagdeploy.pipeline.cautions import Caution
from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.predict import Prediction, PredictOptions, predict_slide
from sagdeploy.serving.engine import Arrays
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.source import hash_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from sagdeploy.slides.tiling import Tiles
from sagdeploy.slides.tissue import find_tissue
from tests import dicom
from tests.bigtiff import without_tiles


@pytest.fixture(scope="module")
def engine(repository: Path) -> LocalEngine:
    return LocalEngine(repository)


DEFAULTS = PredictOptions()


def predict(path: Path, engine: LocalEngine, options: PredictOptions = DEFAULTS) -> Prediction:
    with open_slide(path) as slide:
        return predict_slide(slide, "a-slide", engine, engine.manifest("sag"), options)


def test_a_prediction_fits_its_tiles(painted: Path, engine: LocalEngine) -> None:
    prediction = predict(painted, engine)
    (tiles,) = prediction.tiles
    assert len(tiles) > 20
    assert prediction.diagnosis.attention[0].shape == (len(tiles),)
    assert prediction.tissue_coverage[0].min() >= prediction.manifest.plan.min_tissue
    assert prediction.counts["tiles"] == len(tiles)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(
    painted: Path, engine: LocalEngine, workers: int
) -> None:
    first = predict(painted, engine)
    with open_slide(painted) as slide:
        again = diagnose_tiles(slide, first.tiles, engine, first.manifest, workers=workers)
    np.testing.assert_array_equal(first.diagnosis.probabilities, again.probabilities)
    np.testing.assert_array_equal(first.diagnosis.attention[0], again.attention[0])


class OneRequest(LocalEngine):
    """Takes a whole bag as one request to the ensemble."""

    def ensemble_tiles(self, model: str) -> int:
        return 10_000


def test_one_request_says_what_the_stream_says(
    painted: Path, engine: LocalEngine, repository: Path
) -> None:
    streamed, whole = predict(painted, engine), predict(painted, OneRequest(repository))
    np.testing.assert_allclose(
        streamed.diagnosis.probabilities, whole.diagnosis.probabilities, atol=1e-5
    )
    np.testing.assert_allclose(
        streamed.diagnosis.attention[0], whole.diagnosis.attention[0], atol=1e-5
    )


def test_the_order_of_the_tiles_changes_no_diagnosis(engine: LocalEngine) -> None:
    manifest = engine.manifest("sag")
    rng = np.random.default_rng(5)
    features = rng.standard_normal((60, manifest.extractor.features), np.float32)
    order = rng.permutation(60)

    def diagnose(bag: np.ndarray) -> Arrays:
        return engine.infer(diagnosis_name("sag"), {"features": bag})

    plain, shuffled = diagnose(features), diagnose(features[order])
    np.testing.assert_allclose(plain["logits"], shuffled["logits"], atol=1e-5)
    np.testing.assert_allclose(plain["attention"][order], shuffled["attention"], atol=1e-6)


def test_a_forced_scale_is_recorded_beside_the_slides_own(
    painted: Path, engine: LocalEngine
) -> None:
    prediction = predict(painted, engine, PredictOptions(mpp=0.4))
    assert prediction.slide.mpp.value == 0.4
    assert prediction.slide.mpp.source == "option"
    assert prediction.slide.mpp.metadata == pytest.approx(0.5)
    assert prediction.warnings == (
        Caution("mpp_contradicts", "mpp 0.4 was given; the slide's metadata say 0.5"),
    )


@pytest.mark.parametrize(("above", "codes"), [(-0.01, []), (0.01, ["attention_off_tissue"])])
def test_attention_off_tissue_beyond_what_was_validated_is_a_warning(
    painted: Path, engine: LocalEngine, above: float, codes: list[str]
) -> None:
    plain = predict(painted, engine)
    on_tissue = float(plain.diagnosis.attention[0] @ plain.tissue_coverage[0])
    manifest = engine.manifest("sag").model_copy(
        update={"attention_on_tissue_floor": on_tissue + above}
    )
    with open_slide(painted) as slide:
        warned = predict_slide(slide, "a-slide", engine, manifest)
    assert [caution.code for caution in warned.warnings] == codes
    assert plain.warnings == ()


def test_tissue_is_looked_for_at_the_forced_scale(tmp_path: Path, engine: LocalEngine) -> None:
    path = tmp_path / "large.tiff"
    paint_slide(path, SlideSpec(seed=3, size_l0=(4100, 3000), grade=1.0))
    with open_slide(path) as slide:
        expected = find_tissue(slide, 0.7)
        own = find_tissue(slide, 0.5)
    forced = predict(path, engine, PredictOptions(mpp=0.7))
    assert forced.tissue.share == expected.share != own.share


@pytest.mark.parametrize(
    "change",
    [lambda half: half.touch(), lambda half: half.unlink(missing_ok=True)],
)
def test_a_dicom_slide_of_which_another_file_changes_is_refused(
    change: Callable[[Path], None], tmp_path: Path, shared_data: Path, engine: LocalEngine
) -> None:
    whole, half = dicom.write_series(tmp_path, shared_data / "slides" / dicom.NAME)
    options = PredictOptions(mpp=0.5)
    prediction = predict(whole, engine, options)
    size_bytes = whole.stat().st_size + half.stat().st_size
    facts = prediction.slide
    assert (facts.sha256, facts.size_bytes) == (hash_slide(half), size_bytes)
    with (
        open_slide(whole) as slide,
        pytest.raises(SlideError, match=r"1\.dcm: changed while it was read"),
    ):
        predict_slide(
            slide, "a", engine, engine.manifest("sag"), options, progress=lambda _: change(half)
        )


def test_missing_pixels_are_recorded_and_warned_of(
    painted: Path, tmp_path: Path, engine: LocalEngine
) -> None:
    whole = predict(painted, engine)
    holed = tmp_path / "holed.tiff"
    holed.write_bytes(without_tiles(painted.read_bytes(), [6, 7]))
    predicted = []
    for opener in (open_slide, open_isolated):
        with opener(holed) as slide:
            predict_slide(slide, "a-slide", engine, engine.manifest("sag"))  # counts for itself
            predicted.append(predict_slide(slide, "a-slide", engine, engine.manifest("sag")))
    near, far = predicted
    tiles = near.tiles[0]
    expected = sum(_overlap(tiles, (x, 256)) for x in (0, 256)) / _area(tiles)
    assert near.slide.missing_share == far.slide.missing_share == pytest.approx(expected)
    assert 0.01 < expected < 0.5
    assert [c.code for c in near.warnings] == ["missing_pixels"]
    assert near.warnings == far.warnings
    assert (whole.slide.missing_share, whole.warnings) == (0, ())


def _overlap(tiles: Tiles, xy_l0: tuple[int, int]) -> int:
    """Pixels of all tiles in a TIFF's tile of 256 x 256 px."""
    first = np.maximum(tiles.xy_l0, xy_l0)
    last = np.minimum(tiles.xy_l0 + tiles.size_l0, np.add(xy_l0, 256))
    return int((last - first).clip(0).prod(axis=1).sum())


def _area(tiles: Tiles) -> int:
    return len(tiles) * tiles.size_l0[0] * tiles.size_l0[1]


def test_a_slide_without_its_largest_level_is_refused(
    painted: Path, tmp_path: Path, engine: LocalEngine
) -> None:
    path = tmp_path / "gone.tiff"
    path.write_bytes(without_tiles(painted.read_bytes(), range(100)))
    with pytest.raises(NotAnalysableError, match=r"gone\.tiff: 100\.0 % of the pixels"):
        predict(path, engine)


def test_a_slide_too_coarse_for_the_model_is_not_analysable(
    painted: Path, engine: LocalEngine
) -> None:
    with pytest.raises(NotAnalysableError, match=r"1\.9"):
        predict(painted, engine, PredictOptions(mpp=1.9))


def test_several_magnifications_take_a_bag_each(engine: LocalEngine, painted: Path) -> None:
    manifest = engine.manifest("sag")
    two = manifest.model_copy(update={"plan": replace(manifest.plan, mpp=(0.5, 0.6))})
    assert two.tensors("tiles") == ("tiles_0", "tiles_1")
