import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from sagdeploy.training.intervals import (
    Statistic,
    auc_interval,
    bootstrap_intervals,
    mean_interval,
    newcombe_interval,
    resample,
    wilson_interval,
)
from sagdeploy.training.metrics import diagnosis_scores, weighted_auc


def mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_bca_agrees_with_scipy_for_patients_of_one_slide() -> None:
    values = np.random.default_rng(3).exponential(size=40)
    patients = [str(i) for i in range(40)]
    own = bootstrap_intervals(mean_of(values), patients, np.random.default_rng(1), resamples=4000)[
        "mean"
    ]
    low, high = bootstrap((values,), np.mean, n_resamples=4000, rng=2).confidence_interval
    assert own.method == "BCa bootstrap over patients"
    assert own.value == pytest.approx(values.mean())
    assert (own.low, own.high) == pytest.approx((low, high), rel=0.03)


def test_slides_of_one_patient_are_drawn_together() -> None:
    # Five slides a patient, all alike: as good as one slide a patient, and no better.
    values = np.random.default_rng(3).normal(size=20)
    patients = [str(i) for i in range(20)]
    rng = np.random.default_rng(1)
    once = bootstrap_intervals(mean_of(values), patients, rng, resamples=2000)["mean"]
    five = bootstrap_intervals(
        mean_of(values.repeat(5)), np.repeat(patients, 5).tolist(), rng, resamples=2000
    )["mean"]
    assert five.high - five.low == pytest.approx(once.high - once.low, rel=0.1)


def test_the_same_generator_gives_the_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=20)
    patients = [str(i % 7) for i in range(20)]
    first, second = (
        bootstrap_intervals(mean_of(values), patients, np.random.default_rng(1), resamples=200)
        for _ in range(2)
    )
    assert first == second


def test_a_number_that_no_draw_changes_has_no_interval() -> None:
    rng = np.random.default_rng(1)
    assert bootstrap_intervals(mean_of(np.ones(9)), list("abcdefghi"), rng, resamples=100) == {}


def test_a_number_above_all_its_draws_falls_back_to_the_percentile() -> None:
    def distinct(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"distinct": (weights > 0).mean(axis=1)}

    patients = [str(index) for index in range(30)]
    rng = np.random.default_rng(1)
    interval = bootstrap_intervals(distinct, patients, rng, resamples=100)["distinct"]
    assert interval.method == "percentile bootstrap over patients"
    assert 0.5 < interval.low < interval.high < interval.value == 1


def test_what_is_undefined_has_no_interval() -> None:
    def rarely(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        never = np.full(len(weights), np.nan)
        return {"never": never, "rarely": np.where((weights > 0).all(axis=1), 1.0, never)}

    rng = np.random.default_rng(1)
    assert bootstrap_intervals(rarely, list("abcdef"), rng, resamples=100) == {}


def test_each_patient_is_left_out_once() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    found = resample(mean_of(values), list("abca"), np.random.default_rng(1), resamples=5)["mean"]
    assert found.value == 3.75
    assert found.left_out.tolist() == [3.0, 13 / 3, 11 / 3]
    assert found.drawn.shape == (5,)


def test_intervals_over_patients_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(150):
        patient_effects = rng.normal(size=40)
        values = np.repeat(patient_effects, 3) + 0.3 * rng.normal(size=120)
        patients = np.repeat([str(i) for i in range(40)], 3).tolist()
        interval = bootstrap_intervals(mean_of(values), patients, rng, resamples=300)["mean"]
        hits += interval.low <= 0 <= interval.high
    assert 0.89 <= hits / 150 <= 0.99


def two_classes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([1 - scores, scores], axis=1)


def test_delong_holds_the_true_auc_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat([1, 0], [49, 80])
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)): two normals one deviation apart
    hits = 0
    for _ in range(1000):
        interval = auc_interval([two_classes(rng.normal(size=129) + labels)], labels)
        assert interval is not None
        assert interval.method == "DeLong"
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_delong_gives_the_mean_auc_of_its_views_with_ties(classes: int) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, classes, 50)
    views = []
    for _ in range(3):
        view = rng.integers(1, 5, (50, classes)).astype(float)
        views.append(view / view.sum(axis=1, keepdims=True))
    interval = auc_interval(views, labels)
    assert interval is not None
    areas = [diagnosis_scores(view, labels).auc or 0.0 for view in views]
    assert interval.value == pytest.approx(np.mean(areas))


def test_delong_of_several_classes_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 300)
    view = rng.normal(size=(300, 4)) + np.eye(4)[labels]

    def statistic(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"auc": weighted_auc(view, labels, weights)}

    patients = [str(index) for index in range(300)]
    drawn = bootstrap_intervals(statistic, patients, rng, resamples=1000)["auc"]
    closed = auc_interval([view], labels)
    assert closed is not None
    assert (closed.low, closed.high) == pytest.approx((drawn.low, drawn.high), abs=0.01)


def test_a_single_positive_has_no_interval_of_its_auc() -> None:
    labels = (np.arange(12) == 3).astype(int)
    assert auc_interval([two_classes(np.linspace(0, 1, 12))], labels) is None
    assert auc_interval([two_classes(np.linspace(0, 1, 12))], np.zeros(12, int)) is None


def test_a_perfect_auc_of_few_slides_is_not_certain() -> None:
    labels = (np.arange(12) < 5).astype(int)
    interval = auc_interval([two_classes(labels.astype(float))], labels)
    assert interval is not None
    assert interval.method == "Newcombe"
    assert (interval.value, interval.high) == (1.0, 1.0)
    assert 0.6 < interval.low < 0.8


def test_newcombe_holds_the_true_auc_of_few_slides_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth = 0.9213503964748574  # Phi(2 / sqrt(2))
    hits = 0
    for _ in range(1000):
        positive, negative = rng.normal(size=(10, 1)) + 2, rng.normal(size=12)
        area = float((positive > negative).mean())
        interval = newcombe_interval(area, positives=10, negatives=12)
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 1000 <= 0.98


def test_wilson_gives_the_known_interval_of_the_paper() -> None:
    interval = wilson_interval(120 / 129, 129)
    assert (interval.low, interval.high) == pytest.approx((0.873, 0.963), abs=1e-3)


def test_wilson_is_unsure_of_a_perfect_score() -> None:
    interval = wilson_interval(1.0, 12)
    assert interval.low == pytest.approx(0.758, abs=1e-3)
    assert interval.high == 1


def test_the_mean_of_seeds_by_student() -> None:
    interval = mean_interval([0.1, 0.2, 0.4])
    assert interval is not None
    assert interval.value == pytest.approx(0.7 / 3)
    assert interval.high - interval.value == pytest.approx(4.302653 * 0.0881917, rel=1e-4)
    assert mean_interval([0.1]) is None
