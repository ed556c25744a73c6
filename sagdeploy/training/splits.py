"""Which slides train, validate and are held out: never one patient on two sides."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import CohortError

SEED = 0
"""Of the assignment of patients: the same for every arm and seed, so that they are paired."""


@dataclass(frozen=True, slots=True)
class Partition:
    """The slides of one training run, by their part in it."""

    train: tuple[CohortSlide, ...]
    validation: tuple[CohortSlide, ...]
    """Chooses the epoch and fits the temperature; empty where neither is asked for."""

    held_out: tuple[CohortSlide, ...] = ()
    """What a fold is evaluated on; empty without folds."""


def learning_slides(cohort: Cohort) -> tuple[CohortSlide, ...]:
    """Every slide that training may know, by id: all but the split `test`."""
    return _by_id(slide for slide in cohort.slides if slide.split != "test")


def partitions(
    cohort: Cohort, *, folds: int | None, validation_share: float
) -> tuple[Partition, ...]:
    """One partition, or one a fold, of the slides that training may know.

    Without folds, validation is the cohort's split `val`; with folds, or where there is no
    such split, it is a share of the training patients, stratified by class.
    """
    slides = learning_slides(cohort)
    if not slides:
        raise CohortError("the cohort has no slide outside the split `test` to train on")
    if folds is not None:
        return tuple(
            Partition(*_held_out(rest, validation_share), held_out)
            for rest, held_out in _folds(slides, folds)
        )
    validation = tuple(slide for slide in slides if slide.split == "val")
    if validation:
        return (Partition(tuple(s for s in slides if s.split != "val"), validation),)
    return (Partition(*_held_out(slides, validation_share)),)


Sides = tuple[tuple[CohortSlide, ...], tuple[CohortSlide, ...]]


def _held_out(slides: Sequence[CohortSlide], share: float) -> Sides:
    """Training and validation slides; each class has a patient on both sides, whatever the share.

    Validation is the first of several folds, so many of so many that their share is nearest.
    """
    if not share:
        return tuple(slides), ()
    taken, of = _fraction(share, _fewest_patients(slides))
    chosen = {slide.slide_id for _, held in _folds(slides, of)[:taken] for slide in held}
    return (
        tuple(slide for slide in slides if slide.slide_id not in chosen),
        tuple(slide for slide in slides if slide.slide_id in chosen),
    )


def _fraction(share: float, most: int) -> tuple[int, int]:
    """Numerator and denominator, at most `most`, of the fraction nearest to a share.

    The simplest of those that are equally near; never 0, nor 1.
    """
    candidates = [
        (min(max(1, round(share * parts)), parts - 1), parts)
        for parts in range(2, max(2, most) + 1)
    ]
    return min(candidates, key=lambda fraction: abs(fraction[0] / fraction[1] - share))


def _folds(slides: Sequence[CohortSlide], folds: int) -> list[Sides]:
    """(rest, held out) of each fold."""
    if _fewest_patients(slides) < folds:
        raise CohortError(
            f"{folds} parts need {folds} patients of each class: there are {_counts(slides)}",
            hint="add slides, lower --folds, or name the split `val` in the cohort",
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=SEED)
    labels = [slide.label for slide in slides]
    patients = [slide.patient_id for slide in slides]
    return [
        (tuple(slides[i] for i in rest), tuple(slides[i] for i in held))
        for rest, held in splitter.split(np.zeros(len(slides)), labels, patients)
    ]


def _patients_by_class(slides: Sequence[CohortSlide]) -> Counter[str | None]:
    return Counter(label for label, _ in {(slide.label, slide.patient_id) for slide in slides})


def _fewest_patients(slides: Sequence[CohortSlide]) -> int:
    return min(_patients_by_class(slides).values(), default=0)


def _counts(slides: Sequence[CohortSlide]) -> str:
    counts = sorted(_patients_by_class(slides).items(), key=str)
    return ", ".join(f"{count} of {label}" for label, count in counts)


def _by_id(slides: Iterable[CohortSlide]) -> tuple[CohortSlide, ...]:
    return tuple(sorted(slides, key=lambda slide: slide.slide_id))
