"""A run's extractor in fewer bits: published with its margin, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.bags.cohort import Cohort, read_cohort
from sagdeploy.config import OptimSettings, Precision, TrainSettings
from sagdeploy.errors import ConfigError, ExportError
from sagdeploy.export.extractor import ExtractorSource, local_extraction
from sagdeploy.export.reduction import Reduction
from sagdeploy.export.run import export_run
from sagdeploy.manifest import extractor_name
from sagdeploy.pipeline.extract import extract_cohort
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.experiment import train_seeds
from tests.export.reducible import TILE_PX, smooth_tiles, write_extractor

MODEL = "sag"
PLAN = TilePlan(mpp=(2.0,), tile_px=TILE_PX)
SETTINGS = TrainSettings(optim=OptimSettings(epochs=2))


def trained(folder: Path, cohort: Cohort, settings: TrainSettings, **extractor: object) -> Path:
    """A run on features of a small extractor."""
    source = write_extractor(folder / "small.onnx", **extractor)  # type: ignore[arg-type]
    work = local_extraction(ExtractorSource(str(source)), folder / "bags", PLAN)
    assert all(each.status == "done" for each in extract_cohort(cohort, folder / "bags", work))
    train_seeds(cohort, folder / "bags", folder / "run", settings, [0], jobs=1)
    return folder / "run"


@pytest.fixture(scope="module")
def table(cohort: Path) -> Cohort:
    """Twelve painted slides."""
    return read_cohort(cohort)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, table: Cohort) -> Path:
    """A run whose extractor bears fewer bits."""
    return trained(tmp_path_factory.mktemp("bearing"), table, SETTINGS)


def reduce(run: Path, repository: Path, precision: Precision, cohort: Cohort) -> int:
    return export_run(run, repository, MODEL, reduction=Reduction(precision, cohort)).version


def test_each_precision_is_a_version_of_one_model(tmp_path: Path, run: Path, table: Cohort) -> None:
    models = tmp_path / "models"
    whole = export_run(run, models, MODEL).version
    numbers = {
        "int8": reduce(run, models, "int8", table),
        "fp16": reduce(run, models, "fp16", table),
    }
    engine, tiles = LocalEngine(models), smooth_tiles(5, seed=3)
    before = engine.manifest(MODEL, whole)
    expected = engine.infer(extractor_name(MODEL), {"tiles": tiles}, version=whole)["features"]
    assert (before.margin, before.extractor.precision) == (None, "fp32")
    for precision, number in numbers.items():
        after = engine.manifest(MODEL, number)
        assert after.extractor.precision == precision
        assert after.extractor.weights == f"{before.extractor.weights}; in {precision}"
        assert after.extractor.sha256 != before.extractor.sha256
        assert after.margin is not None
        assert after.margin.slides == len(table.of_split("val"))
        assert after.margin.probability_difference < 0.02
        features = engine.infer(extractor_name(MODEL), {"tiles": tiles}, version=number)["features"]
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=0.05 * expected.max())


def test_progress_counts_the_validation_slides(tmp_path: Path, run: Path, table: Cohort) -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, slides: int) -> None:
        told.append((done, slides))

    export_run(run, tmp_path, MODEL, reduction=Reduction("fp16", table, progress))
    count = len(table.of_split("val"))
    assert told == [(done, count) for done in range(count + 1)]


def test_what_changes_too_much_is_refused_and_not_published(tmp_path: Path, table: Cohort) -> None:
    run = trained(tmp_path, table, SETTINGS, widths=(1e-3, 1e4))
    with pytest.raises(ExportError, match="int8 changes the diagnosis of"):
        reduce(run, tmp_path / "models", "int8", table)
    assert not (tmp_path / "models").exists()


def test_another_cohort_is_refused(tmp_path: Path, run: Path, table: Cohort) -> None:
    with pytest.raises(ConfigError, match="not the table that the run was trained with"):
        reduce(run, tmp_path, "int8", replace(table, sha256="0" * 64))


def test_nothing_is_measured_without_validation_slides(tmp_path: Path, cohort: Path) -> None:
    lines = cohort.read_text().replace(",val,", ",train,")
    path = cohort.with_name("unvalidated.csv")
    path.write_text(lines)
    table = read_cohort(path)
    settings = SETTINGS.model_copy(update={"validation_share": 0.0, "select_by": "last"})
    run = trained(tmp_path, table, settings)
    with pytest.raises(ConfigError, match="no validation slides"):
        reduce(run, tmp_path / "models", "int8", table)
