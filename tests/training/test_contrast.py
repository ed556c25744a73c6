from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from sagdeploy.training.alignment import AttentionScores
from sagdeploy.training.comparison import with_verdicts
from sagdeploy.training.contrast import differences, holm, seed_spread, sign_flip_p
from sagdeploy.training.intervals import Resampled
from sagdeploy.training.judgement import Judged, SlideJudgement
from sagdeploy.training.metrics import weighted_diagnosis

METRICS = ("accuracy", "precision_macro", "recall_macro", "auc")
NOWHERE = AttentionScores(None, None, None, None, None, None, None)
TUMOURS = 0.38
FIT = 0.35  # how much one method suits a patient more than another does
NOISE = 0.5  # of one training on one patient

Margins = NDArray[np.float64]
"""(S, n) how far each seed is on the right side of each slide, as a logit."""


def margins(
    rng: np.random.Generator,
    easiness: NDArray[np.float64],
    *,
    seeds: int,
    ability: float,
    luck: float = 0.0,
) -> Margins:
    """A method's margins on patients who are as easy to diagnose for every method."""
    patients = len(easiness)
    of_method = ability + easiness + FIT * rng.normal(size=patients)
    of_seed = luck * rng.normal(size=(seeds, 1))
    return np.asarray(of_method + of_seed + NOISE * rng.normal(size=(seeds, patients)))


def labels_of(patients: int) -> NDArray[np.intp]:
    return (np.arange(patients) < round(TUMOURS * patients)).astype(np.intp)


def probabilities(margin: NDArray[np.float64], labels: NDArray[np.intp]) -> NDArray[np.float64]:
    tumour = expit(np.where(labels == 1, margin, -margin))
    return np.stack([1 - tumour, tumour], axis=-1)


def judged(margin: Margins, *, seeds: Sequence[int] | None = None, slides: int = 1) -> Judged:
    """Margins as the predictions of a run; a patient has so many `slides`, all alike."""
    labels = labels_of(margin.shape[1])
    return {
        (seed, None): [
            SlideJudgement(f"s{i:03}-{k}", f"p{i:03}", int(labels[i]), given[i], NOWHERE)
            for i in range(len(labels))
            for k in range(slides)
        ]
        for seed, row in zip(seeds or range(len(margin)), margin, strict=True)
        for given in [probabilities(row, labels)]
    }


def truth(abilities: tuple[float, float]) -> dict[str, float]:
    """Differences of the metrics in a large population."""
    rng = np.random.default_rng(9)
    labels = labels_of(60_000)
    easiness = rng.normal(size=len(labels))
    first, second = (
        weighted_diagnosis(
            probabilities(margins(rng, easiness, seeds=1, ability=ability)[0], labels),
            labels,
            np.ones((1, len(labels))),
        )
        for ability in abilities
    )
    return {name: float(second[name][0] - first[name][0]) for name in METRICS}


@pytest.mark.parametrize(("abilities", "patients"), [((1.2, 1.2), 129), ((1.0, 1.5), 129)])
def test_intervals_for_new_patients_hold_and_equal_methods_are_called_equal(
    abilities: tuple[float, float], patients: int
) -> None:
    rng = np.random.default_rng(1)
    expected = truth(abilities)
    claims, held = 0, dict.fromkeys(METRICS, 0)
    for _ in range(300):
        easiness = rng.normal(size=patients)
        arms = [judged(margins(rng, easiness, seeds=3, ability=ability)) for ability in abilities]
        found = differences(arms[1], arms[0], metrics=METRICS, resamples=300)
        claims += any(one.verdict != "not shown" for one in with_verdicts([found])[0].values())
        for name, one in found.items():
            assert one.patients is not None
            held[name] += one.patients.low <= expected[name] <= one.patients.high
    assert all(0.92 <= count / 300 <= 0.98 for count in held.values()), held
    if abilities[0] == abilities[1]:
        assert claims / 300 <= 0.075
    else:
        assert claims / 300 > 0.3  # and a true difference is found


def test_seeds_alone_would_see_a_difference_between_equal_methods() -> None:
    # what makes the second test necessary: 15 seeds of each, one test set
    rng = np.random.default_rng(1)
    by_seeds = by_patients = 0
    for _ in range(30):
        easiness = rng.normal(size=129)
        arms = [judged(margins(rng, easiness, seeds=15, ability=1.2)) for _ in range(2)]
        found = differences(arms[1], arms[0], metrics=("auc",), resamples=200)["auc"]
        assert found.seeds_p is not None
        assert found.patients_p is not None
        by_seeds += found.seeds_p < 0.05
        by_patients += found.patients_p < 0.05
    assert by_seeds / 30 > 0.25
    assert by_patients / 30 < 0.15


def test_lucky_seeds_widen_the_interval_for_new_patients() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        easiness = rng.normal(size=129)
        arms = [judged(margins(rng, easiness, seeds=5, ability=1.2, luck=0.4)) for _ in range(2)]
        found = differences(arms[1], arms[0], metrics=("accuracy",), resamples=200)["accuracy"]
        assert found.patients is not None
        hits += found.patients.low <= 0 <= found.patients.high
    assert hits >= 54


@pytest.fixture
def pair() -> tuple[Judged, Judged]:
    rng = np.random.default_rng(4)
    easiness = rng.normal(size=40)
    first = judged(margins(rng, easiness, seeds=3, ability=1.0), seeds=(3, 1, 2))
    return first, judged(margins(rng, easiness, seeds=3, ability=2.0), seeds=(2, 3, 7))


def test_only_shared_seeds_are_compared_each_with_its_own(pair: tuple[Judged, Judged]) -> None:
    first, second = pair
    found = differences(second, first, metrics=("accuracy",), resamples=100)["accuracy"]

    def accuracy(arm: Judged, seed: int) -> float:
        return float(np.mean([s.probabilities.argmax() == s.label for s in arm[seed, None]]))

    own = [accuracy(second, seed) - accuracy(first, seed) for seed in (2, 3)]
    assert found.value == pytest.approx(np.mean(own))
    assert found.share_above == np.mean(np.array(own) > 0)
    assert found.seeds is not None
    assert found.seeds.method == "Student's t"


def test_no_interval_goes_beyond_what_a_metric_can_differ_by() -> None:
    right, half, wrong = np.ones(8), np.tile([1.0, -1.0], 4), -np.ones(8)
    arms = judged(np.stack([right, half])), judged(np.stack([wrong, half]))
    found = differences(*arms, metrics=("accuracy", "brier", "log_loss"), resamples=50)
    ends = {name: one.seeds and (one.seeds.low, one.seeds.high) for name, one in found.items()}
    assert ends["accuracy"] == (-1, 1)  # by t of two seeds 0.5 -+ 6.35
    assert ends["brier"] == (-2, 2)
    assert ends["log_loss"] == pytest.approx((-0.5 - 6.353, -0.5 + 6.353), abs=1e-3)


def test_arms_without_a_seed_in_common_have_no_difference(pair: tuple[Judged, Judged]) -> None:
    first, second = pair
    alone: Judged = {key: slides for key, slides in second.items() if key == (7, None)}
    assert differences(alone, first, metrics=METRICS, resamples=50) == {}


def test_one_seed_says_nothing_over_seeds(pair: tuple[Judged, Judged]) -> None:
    first, second = pair
    one: Judged = {(2, None): second[2, None]}
    found = differences(one, first, metrics=("auc",), resamples=100)["auc"]
    assert (found.seeds, found.seeds_p, found.share_above) == (None, None, None)
    assert found.patients is not None
    assert found.patients.method == "percentile bootstrap over patients"


def test_an_arm_is_no_better_than_itself(pair: tuple[Judged, Judged]) -> None:
    found = differences(pair[0], pair[0], metrics=METRICS, resamples=50)
    for one in found.values():
        assert one.patients is not None
        assert (one.value, one.patients.low, one.patients.high, one.patients_p) == (0, 0, 0, 1)


def test_the_other_way_round_is_the_other_sign(pair: tuple[Judged, Judged]) -> None:
    there = differences(pair[1], pair[0], metrics=("auc",), resamples=300)["auc"]
    back = differences(pair[0], pair[1], metrics=("auc",), resamples=300)["auc"]
    assert there.patients is not None
    assert back.patients is not None
    assert (there.patients.low, there.patients.high) == pytest.approx(
        (-back.patients.high, -back.patients.low)
    )
    assert there.patients_p == pytest.approx(back.patients_p)


def test_more_slides_of_the_same_patients_make_nothing_surer() -> None:
    rng = np.random.default_rng(4)
    easiness = rng.normal(size=40)
    arms = [margins(rng, easiness, seeds=3, ability=ability) for ability in (1.0, 1.3)]
    widths = []
    for slides in (1, 4):
        first, second = (judged(arm, slides=slides) for arm in arms)
        found = differences(second, first, metrics=("auc",), resamples=400)["auc"].patients
        assert found is not None
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)


def test_folds_of_a_seed_count_as_one(pair: tuple[Judged, Judged]) -> None:
    first, second = pair
    halves: Judged = {
        (2, fold): [slide for slide in second[2, None] if int(slide.slide_id[1:4]) % 2 == fold]
        for fold in (0, 1)
    }
    folded = differences(halves, first, metrics=("accuracy",), resamples=50)["accuracy"]
    unfolded: Judged = {(2, None): second[2, None]}
    whole = differences(unfolded, first, metrics=("accuracy",), resamples=50)
    assert folded.value == pytest.approx(whole["accuracy"].value)


def test_a_metric_that_no_slide_has_is_left_out(pair: tuple[Judged, Judged]) -> None:
    first = {k: [replace(s, attention=NOWHERE) for s in v] for k, v in pair[0].items()}
    found = differences(pair[1], first, metrics=("attention_auprc", "auc"), resamples=50)
    assert list(found) == ["auc"]


def test_seeds_that_add_nothing_widen_little() -> None:
    rng = np.random.default_rng(4)
    patients = rng.normal(size=60)
    of_seed = np.stack([patients, patients, patients])
    left_out = (of_seed.sum(axis=1, keepdims=True) - of_seed) / 59
    spread = seed_spread(Resampled(of_seed.mean(axis=1), np.zeros((3, 1)), left_out))
    assert spread.factor == pytest.approx(1)
    assert spread.freedom == pytest.approx(59)


def test_seeds_far_apart_widen_much() -> None:
    rng = np.random.default_rng(4)
    of_seed = rng.normal(size=60) + np.array([[-1.0], [0.0], [1.0]])
    left_out = (of_seed.sum(axis=1, keepdims=True) - of_seed) / 59
    spread = seed_spread(Resampled(of_seed.mean(axis=1), np.zeros((3, 1)), left_out))
    # variance of the mean: 1/60 of patients, 1/3 of seeds
    assert spread.factor == pytest.approx(((1 / 60 + 1 / 3) * 60) ** 0.5, rel=0.2)
    assert spread.freedom < 3


@pytest.mark.parametrize(
    ("values", "p"),
    [([0.1, 0.2, 0.3], 0.25), ([0.1] * 6, 2 / 64), ([0.1, -0.1], 1.0), ([0.1], None)],
)
def test_the_least_p_of_changing_signs_depends_on_the_seeds(
    values: list[float], p: float | None
) -> None:
    assert sign_flip_p(np.array(values)) == p


def test_signs_of_many_seeds_are_sampled() -> None:
    p = sign_flip_p(np.full(20, 0.1))
    assert p is not None
    assert 0 < p < 1e-3


def test_holm_takes_the_smallest_most() -> None:
    adjusted = holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert adjusted == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})
