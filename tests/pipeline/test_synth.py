from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sagdeploy.bags.cohort import read_cohort
from sagdeploy.errors import ConfigError
from sagdeploy.guidance.annotations import read_annotations
from sagdeploy.guidance.cells import read_cells
from sagdeploy.pipeline.synth import CLASSES, CohortSpec, paint_cohort, plan_cohort
from sagdeploy.slides.slide import open_slide

SMALL = CohortSpec(slides=6, seed=2, size_l0=(710, 530))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_cohort(tmp_path_factory.mktemp("cohort"), SMALL, workers=1).parent


def test_the_table_names_what_was_painted(folder: Path) -> None:
    cohort = read_cohort(folder / "cohort.csv")
    assert cohort.classes == ("benign", "malignant")
    assert [len(cohort.of_split(split)) for split in ("train", "val", "test")] == [2, 2, 2]
    for row in cohort.slides:
        assert row.annotation_path is not None
        assert row.cells_path is not None
        with open_slide(row.located()) as slide:
            assert slide.size_l0 == SMALL.size_l0
        asap = read_annotations(row.annotation_path).regions
        geojson = read_annotations(row.annotation_path.with_suffix(".geojson")).regions
        assert len(asap.geoms) == 1
        assert asap.symmetric_difference(geojson).area < 1
        x, y = read_cells(row.cells_path).T
        low_x, low_y, high_x, high_y = asap.bounds
        assert len(x) >= 3
        assert ((x >= low_x) & (x <= high_x) & (y >= low_y) & (y <= high_y)).all()


def test_any_number_of_workers_paints_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    paint_cohort(tmp_path, SMALL, workers=2, progress=lambda *call: calls.append(call))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 1 + 4 * SMALL.slides
    for path in files:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes(), path
    assert calls == [(done, SMALL.slides) for done in range(1, SMALL.slides + 1)]


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("slides", [12, 25, 60])
def test_every_split_is_balanced_by_class(slides: int, classes: int) -> None:
    planned = plan_cohort(CohortSpec(slides=slides, classes=classes))
    assert len({slide.slide_id for slide in planned}) == slides
    for split in ("train", "val", "test"):
        count = Counter(slide.label for slide in planned if slide.split == split)
        assert set(count) == set(CLASSES[classes])
        assert max(count.values()) - min(count.values()) <= 1


@pytest.mark.parametrize("classes", [2, 4])
def test_patients_are_never_in_two_splits(classes: int) -> None:
    planned = plan_cohort(CohortSpec(slides=60, classes=classes))
    splits = {slide.patient_id: slide.split for slide in planned}
    assert all(splits[slide.patient_id] == slide.split for slide in planned)
    assert set(Counter(slide.patient_id for slide in planned).values()) == {1, 2}


def told_by_pen(spec: CohortSpec, *splits: str) -> float:
    """Share of the slides whose pen has the colour that is commonest in their class in training."""
    planned = plan_cohort(spec)
    colours = {
        label: Counter(s.spec.pen for s in planned if s.label == label and s.split == "train")
        for label in CLASSES[spec.classes]
    }
    chosen = [slide for slide in planned if slide.split in splits]
    return float(np.mean([colours[s.label].most_common(1)[0][0] == s.spec.pen for s in chosen]))


@pytest.mark.parametrize("classes", [2, 4])
def test_a_shortcut_tells_the_class_in_training_and_not_in_the_test(classes: int) -> None:
    spec = CohortSpec(slides=240, classes=classes, shortcut=1.0)
    assert told_by_pen(spec, "train", "val") == 1
    assert told_by_pen(spec, "test") == pytest.approx(1 / classes, abs=0.02)


def test_half_a_shortcut_tells_the_class_of_half_the_slides_and_by_chance_of_others() -> None:
    spec = CohortSpec(slides=240, shortcut=0.5)
    assert told_by_pen(spec, "train", "val") == pytest.approx(0.75, abs=0.02)


def test_without_a_shortcut_pen_and_class_are_independent() -> None:
    planned = plan_cohort(CohortSpec(slides=60, classes=2))
    for split in ("train", "val", "test"):
        count = Counter((s.label, s.spec.pen) for s in planned if s.split == split)
        for pen in ("green", "blue"):
            assert count["benign", pen] == count["malignant", pen]


def test_a_shortcut_moves_nothing_but_the_pens() -> None:
    with_it, without = (plan_cohort(CohortSpec(shortcut=shortcut)) for shortcut in (1.0, 0.0))
    for one, other in zip(with_it, without, strict=True):
        assert (one.slide_id, one.label, one.split, one.patient_id, one.spec.seed) == (
            other.slide_id,
            other.label,
            other.split,
            other.patient_id,
            other.spec.seed,
        )


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"classes": 3}, "classes must be 2 or 4"),
        ({"slides": 5}, "5 slides leave a split"),
        ({"shortcut": 1.1}, "shortcut must be"),
        ({"shares": (0.5, 0.5, 0.0)}, "shares must be"),
        ({"size_l0": (10, 900)}, "size_l0 must be"),
    ],
)
def test_a_senseless_cohort_is_refused(bad: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        CohortSpec(**bad)
