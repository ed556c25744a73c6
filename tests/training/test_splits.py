from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import CohortError
from sagdeploy.training.splits import learning_slides, partitions


def cohort(rows: Sequence[tuple[str, str, str | None]]) -> Cohort:
    """Rows of patient, label, split."""
    slides = tuple(
        CohortSlide(f"s{i}", Path(f"s{i}.svs"), label=label, split=split, patient_id=patient)
        for i, (patient, label, split) in enumerate(rows)
    )
    return Cohort(slides, ("a", "b"), "0" * 64)


patients = st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab")), min_size=4, max_size=30)


def several(sizes: list[tuple[int, str]]) -> Cohort:
    """Patients of one to four slides, and at least six patients of each class."""
    sizes = [*sizes, *[(1, "a"), (2, "b")] * 6]
    return cohort([(f"p{i}", label, None) for i, (n, label) in enumerate(sizes) for _ in range(n)])


@given(patients, st.sampled_from([None, 2, 5]))
@settings(max_examples=15)
def test_no_patient_is_on_two_sides(sizes: list[tuple[int, str]], folds: int | None) -> None:
    for part in partitions(several(sizes), folds=folds, validation_share=0.2):
        sides = [
            {slide.patient_id for slide in side}
            for side in (part.train, part.validation, part.held_out)
        ]
        assert sum(map(len, sides)) == len(set().union(*sides))


@given(patients)
@settings(max_examples=15)
def test_each_slide_is_held_out_by_one_fold(sizes: list[tuple[int, str]]) -> None:
    whole = several(sizes)
    parts = partitions(whole, folds=3, validation_share=0.2)
    held_out = [slide.slide_id for part in parts for slide in part.held_out]
    assert sorted(held_out) == sorted(slide.slide_id for slide in whole.slides)


@given(patients)
@settings(max_examples=15)
def test_both_classes_are_on_both_sides(sizes: list[tuple[int, str]]) -> None:
    (part,) = partitions(several(sizes), folds=None, validation_share=0.2)
    assert {slide.label for slide in part.train} == {"a", "b"}
    assert {slide.label for slide in part.validation} == {"a", "b"}


@given(patients)
@settings(max_examples=15)
def test_the_order_of_the_rows_changes_nothing(sizes: list[tuple[int, str]]) -> None:
    whole = several(sizes)
    mixed = Cohort(tuple(reversed(whole.slides)), whole.classes, whole.sha256)
    for folds in (None, 3):
        assert partitions(whole, folds=folds, validation_share=0.2) == partitions(
            mixed, folds=folds, validation_share=0.2
        )


def test_the_cohorts_own_validation_split_is_kept() -> None:
    whole = cohort(
        [("p0", "a", "train"), ("p1", "b", "train"), ("p2", "a", "val"), ("p3", "b", "test")]
    )
    (part,) = partitions(whole, folds=None, validation_share=0.2)
    assert [slide.slide_id for slide in part.train] == ["s0", "s1"]
    assert [slide.slide_id for slide in part.validation] == ["s2"]


@pytest.mark.parametrize("folds", [None, 2])
def test_test_slides_are_in_no_part(folds: int | None) -> None:
    rows = [(f"p{i}", "ab"[i % 2], "test" if i > 9 else "train") for i in range(16)]
    for part in partitions(cohort(rows), folds=folds, validation_share=0.2):
        used = {*part.train, *part.validation, *part.held_out}
        assert {slide.split for slide in used} == {"train"}
        assert len(used) == 10


def test_few_patients_make_the_validation_share_larger() -> None:
    whole = cohort([(f"p{i}", "ab"[i % 2], None) for i in range(6)])
    (part,) = partitions(whole, folds=None, validation_share=0.1)
    assert (len(part.train), len(part.validation)) == (4, 2)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 0.7, 0.9])
def test_validation_is_the_share_that_was_set(share: float) -> None:
    whole = cohort([(f"p{i}", "ab"[i % 2], None) for i in range(80)])
    (part,) = partitions(whole, folds=None, validation_share=share)
    assert len(part.validation) == pytest.approx(share * 80)
    assert len(part.train) + len(part.validation) == 80
    assert sum(slide.label == "a" for slide in part.validation) == pytest.approx(share * 40, abs=1)


@pytest.mark.parametrize("share", [0.01, 0.4, 0.99, 1])
def test_a_rare_class_is_on_both_sides_whatever_the_share(share: float) -> None:
    whole = cohort([(f"p{i}", "a" if i < 3 else "b", None) for i in range(30)])
    (part,) = partitions(whole, folds=None, validation_share=share)
    assert {slide.label for slide in part.train} == {"a", "b"}
    assert {slide.label for slide in part.validation} == {"a", "b"}


@pytest.mark.parametrize("parts", [2, 3, 4, 5, 8, 10])
def test_one_part_of_several_is_the_first_fold(parts: int) -> None:
    rng = np.random.default_rng(2)
    rows = [(f"p{i}", "ab"[i % 3 == 0], None) for i in range(36) for _ in range(rng.integers(1, 4))]
    whole = cohort(rows)
    slides = learning_slides(whole)
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
    labels, patients = zip(*((slide.label, slide.patient_id) for slide in slides), strict=True)
    _, held = next(splitter.split(np.zeros(len(slides)), labels, patients))
    (part,) = partitions(whole, folds=None, validation_share=1 / parts)
    assert part.validation == tuple(slides[i] for i in held)


def test_a_share_of_zero_leaves_no_validation() -> None:
    whole = cohort([(f"p{i}", "ab"[i % 2], None) for i in range(6)])
    (part,) = partitions(whole, folds=None, validation_share=0)
    assert (len(part.train), part.validation) == (6, ())


def test_more_folds_than_patients_of_a_class_are_refused_with_the_counts() -> None:
    whole = cohort(
        [("p0", "a", None), ("p0", "a", None), *[("p1", "b", None)] * 2, ("p2", "b", None)]
    )
    with pytest.raises(CohortError, match="1 of a, 2 of b"):
        partitions(whole, folds=2, validation_share=0)


def test_a_cohort_of_test_slides_cannot_be_learned_from() -> None:
    with pytest.raises(CohortError, match="to train on"):
        partitions(cohort([("p0", "a", "test")]), folds=None, validation_share=0.2)
