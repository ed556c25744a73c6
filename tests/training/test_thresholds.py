"""The threshold comes from validation, and what it is worth is told on other slides."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.training.checkpoint import read_results
from sagdeploy.training.evaluate import evaluate_run
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.thresholds import fit_threshold, threshold_scores

Toy = tuple[Cohort, Path]


def two_classes(scores: list[float]) -> NDArray[np.float64]:
    positive = np.array(scores)
    return np.stack([1 - positive, positive], axis=1)


def youden(scores: NDArray[np.float64], labels: NDArray[np.intp], threshold: float) -> float:
    above = scores >= threshold
    return float(above[labels == 1].mean() - above[labels == 0].mean())


slides = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=30)


@given(slides)
def test_no_other_threshold_parts_the_slides_better(rows: list[tuple[float, int]]) -> None:
    scores, labels = np.array([s for s, _ in rows]), np.array([label for _, label in rows])
    threshold = fit_threshold(two_classes(scores.tolist()), labels)
    if len(set(labels.tolist())) < 2:
        assert threshold is None
        return
    assert threshold is not None
    best = max(youden(scores, labels, value) for value in [*scores, 2.0])
    assert youden(scores, labels, threshold) == pytest.approx(best)


def test_it_lies_midway_between_the_classes() -> None:
    assert fit_threshold(two_classes([0.1, 0.2, 0.3, 0.35]), np.array([0, 0, 1, 1])) == 0.25


def test_of_equals_it_is_the_nearest_to_a_half() -> None:
    scores = [0.1, 0.3, 0.6, 0.9]  # parted as well between the first two as between the last
    assert fit_threshold(two_classes(scores), np.array([0, 1, 0, 1])) == pytest.approx(0.75)


def test_more_than_two_classes_have_none() -> None:
    assert fit_threshold(np.eye(3), np.arange(3)) is None
    assert threshold_scores(np.array([0.2, 0.3, 0.5]), 1, None).accuracy_at_threshold is None


@pytest.mark.parametrize(("label", "expected"), [(1, (1.0, 1.0, None)), (0, (0.0, None, 0.0))])
def test_each_class_has_a_rate_of_its_own(label: int, expected: tuple[float | None, ...]) -> None:
    scores = threshold_scores(np.array([0.7, 0.3]), label, 0.3)
    found = (
        scores.accuracy_at_threshold,
        scores.sensitivity_at_threshold,
        scores.specificity_at_threshold,
    )
    assert found == expected


def test_a_run_keeps_the_threshold_of_its_validation_and_is_judged_by_it(
    make_toy: Callable[..., Toy], tmp_path: Path
) -> None:
    cohort, bags = make_toy(train=16, val=8, test=8)
    settings = TrainSettings.model_validate({"optim": {"epochs": 8, "lr": 1e-2, "bag_batch": 4}})
    train_seeds(cohort, bags, tmp_path / "run", settings, [0], jobs=1)
    (result,) = read_results(tmp_path / "run")
    assert result.threshold is not None
    evaluation = evaluate_run(tmp_path / "run", cohort, bags, resamples=50)
    at = {name: evaluation.mean[f"{name}_at_threshold"] for name in ("accuracy", "sensitivity")}
    assert at["accuracy"] > 0.7
    assert "specificity_at_threshold" in evaluation.intervals
    assert len((tmp_path / "run" / "predictions_test.csv").read_text().splitlines()) == 9
