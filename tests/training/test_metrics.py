from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from sagdeploy.training.metrics import (
    AttentionScores,
    attention_scores,
    auc,
    calibrated,
    diagnosis_scores,
    fit_temperature,
    log_loss,
    mean_attention,
)

seeds = st.integers(0, 2**32 - 1)
class_counts = st.integers(2, 4)


def answers(seed: int, classes: int, slides: int = 40) -> tuple[Any, Any]:
    """Probabilities, many of them tied, and labels of which every class has some."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, slides - classes)])
    logits = rng.normal(size=(slides, classes)).round(1)
    logits[np.arange(slides), labels] += 1
    return softmax(logits, axis=1), labels


@given(seeds, class_counts)
def test_scores_agree_with_scikit_learn(seed: int, classes: int) -> None:
    probabilities, labels = answers(seed, classes)
    predicted = probabilities.argmax(axis=1)
    scores = diagnosis_scores(probabilities, labels)
    assert scores.accuracy == sk.accuracy_score(labels, predicted)
    assert scores.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    precision, recall, *_ = sk.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    assert scores.precision_macro == pytest.approx(precision)
    assert scores.recall_macro == pytest.approx(recall)
    assert scores.log_loss == pytest.approx(sk.log_loss(labels, probabilities))


@given(seeds, class_counts)
def test_auc_agrees_with_scikit_learn(seed: int, classes: int) -> None:
    probabilities, labels = answers(seed, classes)
    truth = probabilities[:, 1] if classes == 2 else probabilities
    assert auc(probabilities, labels) == pytest.approx(
        sk.roc_auc_score(labels, truth, multi_class="ovr")
    )


@given(seeds)
def test_the_positive_class_is_named_apart_from_the_macro_mean(seed: int) -> None:
    probabilities, labels = answers(seed, 2)
    predicted = probabilities.argmax(axis=1)
    scores = diagnosis_scores(probabilities, labels)
    assert scores.precision_positive == pytest.approx(sk.precision_score(labels, predicted))
    assert scores.recall_positive == pytest.approx(sk.recall_score(labels, predicted))


def test_more_than_two_classes_have_no_positive_one() -> None:
    scores = diagnosis_scores(*answers(1, 3))
    assert scores.precision_positive is None
    assert scores.recall_positive is None


def test_the_macro_mean_of_the_camelyon_table_is_not_the_positive_class() -> None:
    # 75 of 80 normal slides and 45 of 49 tumours right: the paper's ABMIL baseline.
    labels = np.repeat([0, 1], [80, 49])
    predicted = np.concatenate([np.repeat([0, 1], [75, 5]), np.repeat([1, 0], [45, 4])])
    scores = diagnosis_scores(np.eye(2)[predicted], labels)
    assert scores.accuracy == pytest.approx(0.9302, abs=5e-5)
    assert scores.precision_macro == pytest.approx(0.9247, abs=5e-5)
    assert scores.recall_macro == pytest.approx(0.9279, abs=5e-5)
    assert scores.precision_positive == pytest.approx(45 / 50)
    assert scores.recall_positive == pytest.approx(45 / 49)
    assert scores.majority_accuracy == pytest.approx(80 / 129)


def test_slides_of_one_class_have_no_auc() -> None:
    probabilities, _ = answers(1, 3)
    assert auc(probabilities, np.full(40, 2)) is None


def test_brier_and_ece_of_known_answers() -> None:
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    scores = diagnosis_scores(probabilities, np.array([0, 1, 1]))
    assert scores.brier == pytest.approx((2 * 0.2**2 + 2 * 0.8**2 + 2 * 0.4**2) / 3)
    assert scores.ece == pytest.approx((abs(1 - 1.6) + abs(1 - 0.6)) / 3)


def test_log_loss_is_finite_for_a_truth_held_impossible() -> None:
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]]), np.array([1])))


@given(seeds, st.floats(0.3, 4))
def test_temperature_undoes_a_known_overconfidence(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3)) * 1.5
    labels = (rng.gumbel(size=logits.shape) + logits).argmax(axis=1)  # drawn from softmax(logits)
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.15)


@given(seeds)
def test_temperature_never_raises_the_log_loss(seed: int) -> None:
    probabilities, labels = answers(seed, 3)
    logits = np.log(probabilities) * 5
    fitted = calibrated(logits, fit_temperature(logits, labels))
    assert log_loss(fitted, labels) <= log_loss(calibrated(logits, 1.0), labels) + 1e-6


def test_temperature_stays_1_where_every_slide_is_right() -> None:
    assert fit_temperature(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 1.0


def test_attention_scores_of_a_known_slide() -> None:
    attention = np.array([0.5, 0.1, 0.3, 0.1])
    heuristic = np.array([0.8, 0.6, 0.4, 0.0])
    tissue = np.array([1.0, 1.0, 0.5, 0.0])
    scores = attention_scores(attention, tissue=tissue, heuristic=heuristic)
    assert scores.attention_on_tissue == pytest.approx(0.5 + 0.1 + 0.15)
    assert scores.attention_on_heuristic == pytest.approx(0.4 + 0.06 + 0.12)
    assert scores.uniform_on_heuristic == pytest.approx(1.8 / 4)
    assert scores.chance_auprc == 0.5
    assert scores.attention_auprc == pytest.approx((1 + 2 / 4) / 2)
    assert scores.pointing_game == 1
    assert scores.top_precision == 1


def test_the_top_percent_is_of_the_tiles() -> None:
    attention = np.linspace(1, 2, 400) / 600
    heuristic = np.zeros(400)
    heuristic[[399, 398, 397, 0]] = 1
    scores = attention_scores(attention, tissue=None, heuristic=heuristic)
    assert scores.top_precision == 3 / 4


@pytest.mark.parametrize("heuristic", [None, np.zeros(2)])
def test_a_slide_without_a_region_has_no_heuristic_scores(heuristic: Any) -> None:
    scores = attention_scores(np.array([0.4, 0.6]), tissue=np.array([1.0, 0]), heuristic=heuristic)
    assert scores == AttentionScores(0.4, None, None, None, None, None, None)


def test_a_region_thinner_than_half_a_tile_has_no_tile_to_point_at() -> None:
    scores = attention_scores(np.array([0.4, 0.6]), tissue=None, heuristic=np.array([0.3, 0]))
    assert scores.attention_on_heuristic == pytest.approx(0.12)
    assert scores.attention_auprc is None
    assert scores.pointing_game is None


def test_the_mean_leaves_out_slides_that_lack_a_score() -> None:
    lacking = AttentionScores(0.2, None, None, None, None, None, None)
    full = AttentionScores(0.4, 0.5, 0.1, 0.9, 0.1, 1.0, 1.0)
    mean = mean_attention([lacking, full])
    assert mean.attention_on_tissue == pytest.approx(0.3)
    assert mean.attention_on_heuristic == 0.5
