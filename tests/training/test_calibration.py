from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.training.calibration import calibrated, fit_temperature

seeds = st.integers(0, 2**32 - 1)


def log_loss(probabilities: Any, labels: Any) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


@given(seeds, st.floats(0.3, 4))
def test_temperature_undoes_a_known_overconfidence(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3)) * 1.5
    labels = (rng.gumbel(size=logits.shape) + logits).argmax(axis=1)  # drawn from softmax(logits)
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.15)


@given(seeds)
def test_temperature_never_raises_the_log_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(40, 3)) * 5, rng.integers(0, 3, 40)
    fitted = calibrated(logits, fit_temperature(logits, labels))
    assert log_loss(fitted, labels) <= log_loss(calibrated(logits, 1.0), labels) + 1e-6


def test_temperature_stays_1_where_every_slide_is_right() -> None:
    assert fit_temperature(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 1.0
