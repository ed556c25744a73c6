from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as sk

from sagdeploy.training.metrics import (
    DIAGNOSIS_METRICS,
    diagnosis_scores,
    nan_mean,
    ratio,
    weighted_diagnosis,
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
    assert diagnosis_scores(probabilities, labels).auc == pytest.approx(
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
    assert diagnosis_scores(probabilities, np.full(40, 2)).auc is None


def test_brier_and_ece_of_known_answers() -> None:
    probabilities = np.array([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    scores = diagnosis_scores(probabilities, np.array([0, 1, 1]))
    assert scores.brier == pytest.approx((2 * 0.2**2 + 2 * 0.8**2 + 2 * 0.4**2) / 3)
    assert scores.ece == pytest.approx((abs(1 - 1.6) + abs(1 - 0.6)) / 3)


def test_log_loss_is_finite_for_a_truth_held_impossible() -> None:
    assert np.isfinite(diagnosis_scores(np.array([[1.0, 0.0]]), np.array([1])).log_loss)


@given(seeds, class_counts)
def test_a_weight_counts_a_slide_so_often(seed: int, classes: int) -> None:
    probabilities, labels = answers(seed, classes)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(labels))).astype(float)
    weighted = weighted_diagnosis(probabilities, labels, weights)
    assert tuple(weighted) == DIAGNOSIS_METRICS
    for row, counts in enumerate(weights.astype(int)):
        drawn = np.repeat(np.arange(len(labels)), counts)
        scores = diagnosis_scores(probabilities[drawn], labels[drawn])
        for name in DIAGNOSIS_METRICS:
            expected = getattr(scores, name)
            value = weighted[name][row]
            assert np.isnan(value) if expected is None else value == pytest.approx(expected)


def test_no_slide_at_all_has_no_score() -> None:
    probabilities, labels = answers(1, 2)
    weighted = weighted_diagnosis(probabilities, labels, np.zeros((1, len(labels))))
    assert np.isnan(weighted["accuracy"]).all()
    assert np.isnan(weighted["auc"]).all()


def test_what_is_undefined_is_left_out_of_a_mean() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert np.array_equal(nan_mean(values), [2.0, np.nan], equal_nan=True)
    assert np.array_equal(ratio(np.ones(2), np.array([4.0, 0.0])), [0.25, np.nan], equal_nan=True)
