import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from sagdeploy.training.intervals import (
    Statistic,
    bootstrap_intervals,
    delong_interval,
    mean_interval,
    wilson_interval,
)
from sagdeploy.training.metrics import binary_auc


def mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda drawn: {"mean": float(values[drawn].mean())}


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


def test_a_constant_falls_back_to_the_percentile() -> None:
    interval = bootstrap_intervals(
        mean_of(np.ones(9)), list("abcdefghi"), np.random.default_rng(1), resamples=100
    )["mean"]
    assert (interval.low, interval.high) == (1, 1)
    assert interval.method == "percentile bootstrap over patients"


def test_what_is_undefined_has_no_interval() -> None:
    def rarely(drawn: NDArray[np.intp]) -> dict[str, float | None]:
        return {"never": None, "rarely": 1.0 if len(set(drawn)) == 6 else None}

    rng = np.random.default_rng(1)
    assert bootstrap_intervals(rarely, list("abcdef"), rng, resamples=100) == {}


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


def test_delong_holds_the_true_auc_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    is_positive = np.repeat([True, False], [49, 80])
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)): two normals one deviation apart
    hits = 0
    for _ in range(1000):
        interval = delong_interval(rng.normal(size=129) + is_positive, is_positive)
        assert interval is not None
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_delong_gives_the_auc_with_ties() -> None:
    rng = np.random.default_rng(5)
    scores, is_positive = rng.integers(0, 5, 50).astype(float), rng.random(50) < 0.4
    interval = delong_interval(scores, is_positive)
    assert interval is not None
    assert interval.value == pytest.approx(binary_auc(scores, is_positive))


@pytest.mark.parametrize("positives", [1, 5])
def test_delong_is_silent_where_its_variance_is_undefined_or_zero(positives: int) -> None:
    is_positive = np.arange(12) < positives
    assert delong_interval(is_positive.astype(float), is_positive) is None


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
