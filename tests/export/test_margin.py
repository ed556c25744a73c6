"""The figures by which fewer bits are judged, and the judgement."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from sagdeploy.bags.cohort import CohortSlide, read_cohort
from sagdeploy.errors import ExportError
from sagdeploy.export.margin import (
    Pair,
    SlideChange,
    centred_cosines,
    margin_of,
    measure_margin,
    rank_correlation,
    refuse_beyond,
)
from sagdeploy.export.samples import SLIDES, TILES_A_SLIDE, sample_tiles
from sagdeploy.manifest import Margin
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.runtime import load_graph
from sagdeploy.slides.tiling import TilePlan

FINE = Margin(
    slides=9,
    tiles=900,
    feature_cosine=0.98,
    attention_rank=0.99,
    probability_difference=0.01,
    auc_difference=None,
)
tied = arrays(np.float32, 12, elements=st.integers(0, 5).map(float))


@given(tied, tied)
def test_rank_correlation_is_spearmans(one: np.ndarray, other: np.ndarray) -> None:
    found = rank_correlation(one, other)
    if np.ptp(one) and np.ptp(other):
        assert found == pytest.approx(spearmanr(one, other).statistic)
    else:
        assert found == (0.0 if np.ptp(one) or np.ptp(other) else 1.0)


def test_what_all_features_have_in_common_does_not_hide_a_difference() -> None:
    rng = np.random.default_rng(0)
    common = np.full(20, 100, np.float32)
    own, other = (rng.standard_normal((30, 20), np.float32) for _ in range(2))
    assert (centred_cosines(common + own, common + own, common) == 1).all()
    assert abs(centred_cosines(common + own, common + other, common).mean()) < 0.1
    shifted = centred_cosines(common + own, common + own + 3, common)
    assert shifted.mean() < 0.7  # a shift of all features is a difference too


def test_a_tile_that_is_the_mean_agrees_with_itself_alone() -> None:
    centre = np.ones(3, np.float32)
    whole = np.ones((2, 3), np.float32)
    reduced = np.array([(1, 1, 1), (1, 2, 1)], np.float32)
    assert centred_cosines(whole, reduced, centre).tolist() == [1, 0]


def change(label: int, whole: float, reduced: float, ranks: tuple[float, ...]) -> SlideChange:
    probabilities = np.array([(1 - whole, whole), (1 - reduced, reduced)])
    return SlideChange(np.array([0.9, 1.0]), ranks, probabilities, label)


def test_no_slide_without_a_label_is_measured(repository: Path) -> None:
    whole, diagnosis = (
        load_graph(repository / f"sag_{part}" / "1" / "model.onnx")
        for part in ("extractor", "diagnosis")
    )
    manifest = LocalEngine(repository).manifest("sag")
    pair = Pair(whole, whole, diagnosis, manifest.plan, manifest.classes)
    with pytest.raises(AssertionError):
        measure_margin(pair, [CohortSlide("s", Path("s.tif"))], np.zeros(3, np.float32))


def test_a_margin_is_means_and_the_worst_probability() -> None:
    changes = [change(0, 0.4, 0.25, (1.0, 0.8)), change(1, 0.3, 0.35, (0.9, 0.9))]
    margin = margin_of(changes)
    assert (margin.slides, margin.tiles, margin.auc_difference) == (2, 4, 1.0)
    assert margin.feature_cosine == pytest.approx(0.95)
    assert margin.attention_rank == pytest.approx(0.9)
    assert margin.probability_difference == pytest.approx(0.15)
    assert margin_of(changes[:1]).auc_difference is None


@pytest.mark.parametrize(
    ("figure", "value", "told"),
    [
        ("feature_cosine", 0.969, "cosine of features 0.969 < 0.97"),
        ("attention_rank", 0.979, "rank correlation of attention 0.979 < 0.98"),
        ("probability_difference", 0.021, "probabilities differ by 0.021 > 0.02"),
    ],
)
def test_more_than_the_stated_margin_is_refused(figure: str, value: float, told: str) -> None:
    refuse_beyond(FINE, "int8")
    with pytest.raises(ExportError, match=told) as caught:
        refuse_beyond(FINE.model_copy(update={figure: value}), "int8")
    assert "9 validation slides" in str(caught.value)
    assert caught.value.exit_code == 5
    assert "fp16" in caught.value.hint


def test_samples_are_of_tissue_seeded_and_few(cohort: Path) -> None:
    slides = read_cohort(cohort).slides
    plan = TilePlan(mpp=(1.0, 0.5), tile_px=56, min_tissue=0.0)
    batches = sample_tiles(slides, plan)
    assert len(batches) == 2 * min(SLIDES, len(slides))
    assert {batch.shape for batch in batches} == {(TILES_A_SLIDE, 56, 56, 3)}
    again = sample_tiles(slides, plan)
    assert all((one == two).all() for one, two in zip(batches, again, strict=True))
    glass = np.mean([(batch > 225).all(axis=3).mean() for batch in batches])
    assert glass < 0.5
