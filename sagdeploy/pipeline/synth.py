"""Paint a whole cohort: slides, outlined lesions, cells, and the table that names them."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sagdeploy.bags.cohort import CohortSlide, write_cohort
from sagdeploy.errors import ConfigError
from sagdeploy.files import write_bytes
from sagdeploy.guidance.annotations import outlined, write_asap, write_geojson
from sagdeploy.pipeline.stream import cores
from sagdeploy.slides.anatomy import KINDS, LESION, Cells
from sagdeploy.slides.artefacts import PENS, Pen
from sagdeploy.slides.synthetic import SlideSpec, paint_slide

CLASSES: Final = {
    2: ("benign", "malignant"),
    4: ("grade-1", "grade-2", "grade-3", "grade-4"),
}
"""Names of the classes, by how many there are, from the mildest nuclei to the worst."""

SPLITS: Final = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class CohortSpec:
    """What decides every file of a painted cohort."""

    slides: int = 60
    classes: int = 2
    seed: int = 0
    size_l0: tuple[int, int] = (2592, 1904)
    """(width, height) of every slide."""

    mpp: float = 0.5
    shortcut: float = 0.0
    """Share of the training and validation slides whose pen has the colour of their class; in
    the others, and in all test slides, colour and class are independent. A model that looks at
    the background, as the paper's Fig. 1 shows, learns it and then fails on the test slides."""

    pens_touch: bool = False
    """Whether pens reach into the box around the tissue, where a grid of tiles sees them, too."""

    shares: tuple[float, float, float] = (0.5, 0.17, 0.33)
    """Of the training, validation and test split, within each class."""

    def __post_init__(self) -> None:
        if self.classes not in CLASSES:
            raise ConfigError(f"classes must be 2 or 4, got {self.classes}")
        if min(_counts(self.slides // self.classes, self.shares)) < 1:
            raise ConfigError(
                f"{self.slides} slides leave a split without a slide of each class",
                hint=f"paint at least {3 * self.classes} slides",
            )
        if not 0 <= self.shortcut <= 1:
            raise ConfigError(f"shortcut must be in 0..1, got {self.shortcut}")
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ConfigError(f"shares must be positive and sum to 1, got {self.shares}")
        SlideSpec(self.seed, self.size_l0, self.mpp)  # checks these three


@dataclass(frozen=True, slots=True)
class PlannedSlide:
    """A slide of a cohort before it is painted."""

    slide_id: str
    label: str
    split: str
    patient_id: str
    spec: SlideSpec


def paint_cohort(
    folder: Path,
    spec: CohortSpec,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: int | None = None,
) -> Path:
    """Paint a cohort into a folder; returns the path of its `cohort.csv`, which comes last.

    progress: told after each slide how many are done, and of how many
    workers:  processes that paint; any number paints the same bytes
    Beside the table: `slides/<slide_id>.tif`; `annotations/<slide_id>` as ASAP .xml, which the
    table names, and as .geojson; `cells/<slide_id>.csv` with columns x_l0, y_l0, kind: the
    lesion's cells alone, as a detector trained on them would find.
    """
    planned = plan_cohort(spec)
    for done, _ in enumerate(_painted(folder, planned, workers), start=1):
        progress(done, len(planned))
    table = folder / "cohort.csv"
    write_cohort(table, [_row(folder, slide) for slide in planned])
    return table


def plan_cohort(spec: CohortSpec) -> tuple[PlannedSlide, ...]:
    """The slides of a cohort, ordered by id; classes take turns, patients stay in one split."""
    rng = np.random.default_rng(spec.seed)
    planned = [slide for grade in range(spec.classes) for slide in _class(rng, spec, grade)]
    return tuple(sorted(planned, key=lambda slide: slide.slide_id))


def _class(rng: np.random.Generator, spec: CohortSpec, grade: int) -> Iterator[PlannedSlide]:
    numbers = rng.permutation(np.arange(grade, spec.slides, spec.classes)).tolist()
    for split, count in zip(SPLITS, _counts(len(numbers), spec.shares), strict=True):
        group, numbers = numbers[:count], numbers[count:]
        pens = _pens(rng, spec, grade, count, told=split != "test")
        for index, (number, pen) in enumerate(zip(group, pens, strict=True)):
            yield PlannedSlide(
                slide_id=_id("slide", number),
                label=CLASSES[spec.classes][grade],
                split=split,
                # every fourth slide comes from the patient of the one before
                patient_id=_id("patient", group[index - 1] if index % 4 == 3 else number),
                spec=SlideSpec(
                    seed=int(np.random.SeedSequence((spec.seed, number)).generate_state(1)[0]),
                    size_l0=spec.size_l0,
                    mpp=spec.mpp,
                    grade=grade / (spec.classes - 1),
                    pen=pen,
                    pen_touches=spec.pens_touch,
                ),
            )


def _counts(slides: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Slides of one class in each split; what rounding leaves over goes into training."""
    val, test = (max(1, round(slides * share)) for share in shares[1:])
    return slides - val - test, val, test


def _pens(
    rng: np.random.Generator, spec: CohortSpec, grade: int, count: int, *, told: bool
) -> list[Pen]:
    """Colours of the pens in one split of one class, where they may tell the class or not."""
    telling = round(spec.shortcut * count) if told else 0
    others = [other % spec.classes for other in range(count - telling)]
    return [PENS[pen] for pen in rng.permutation([grade] * telling + others)]


def _id(what: str, number: int) -> str:
    return f"{what}-{number + 1:03}"


def _painted(folder: Path, planned: Sequence[PlannedSlide], workers: int | None) -> Iterator[str]:
    """Paints all slides, in processes: stamping nuclei holds Python's lock."""
    workers = min(workers or cores(), len(planned))
    if workers == 1:
        for slide in planned:
            yield _paint(folder, slide)
        return
    # Not forked: a copy of a process with running threads may wait for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        tasks = [pool.submit(_paint, folder, slide) for slide in planned]
        try:
            for task in as_completed(tasks):
                yield task.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _paint(folder: Path, slide: PlannedSlide) -> str:
    row = _row(folder, slide)
    painted = paint_slide(row.located(), slide.spec)
    assert row.annotation_path is not None
    assert row.cells_path is not None
    lesion = outlined([painted.lesion_l0])
    write_asap(row.annotation_path, lesion)
    write_geojson(row.annotation_path.with_suffix(".geojson"), lesion, label="Lesion")
    write_cells(row.cells_path, painted.cells.where(painted.cells.kind == LESION))
    return slide.slide_id


def write_cells(path: Path, cells: Cells) -> None:
    """Write cells as a table of x_l0, y_l0 and kind."""
    rows = (
        f"{x:.1f},{y:.1f},{KINDS[kind]}\n"
        for (x, y), kind in zip(cells.xy_l0.tolist(), cells.kind.tolist(), strict=True)
    )
    write_bytes(path, ("x_l0,y_l0,kind\n" + "".join(rows)).encode())


def _row(folder: Path, slide: PlannedSlide) -> CohortSlide:
    return CohortSlide(
        slide_id=slide.slide_id,
        slide_path=folder / "slides" / f"{slide.slide_id}.tif",
        label=slide.label,
        split=slide.split,
        patient_id=slide.patient_id,
        annotation_path=folder / "annotations" / f"{slide.slide_id}.xml",
        cells_path=folder / "cells" / f"{slide.slide_id}.csv",
    )
