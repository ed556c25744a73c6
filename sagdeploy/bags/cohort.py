"""The table of a cohort's slides: which files, labels, splits and patients belong together."""

import csv
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path, PurePath

from sagdeploy.bags.rows import FORMULA_STARTS, Row, Table, bad_rows, read_table
from sagdeploy.errors import CohortError, ConfigError
from sagdeploy.files import check_name, write_bytes

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Accepted names of splits, and ours."""

SYNONYMS = {"case_id": "patient_id", "wsi": "slide_path"}
"""Columns of CLAM's and TRIDENT's tables, and ours."""

ROUNDED = 0.02
"""How far from 1 the sum of a soft label may be that was rounded when it was written."""

HINT = "the first line names the columns: slide_id,slide_path,label"


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One row of a cohort."""

    slide_id: str
    slide_path: Path | None
    """None in the table of a cohort of which only features are at hand."""

    label: str | None = None
    split: str | None = None
    """`train`, `val`, `test`, or None where the cohort names no splits."""

    patient_id: str = ""
    """The slide's own id where the table names no patient."""

    annotation_path: Path | None = None
    cells_path: Path | None = None
    mpp: float | None = None
    """Microns per pixel at level 0; wins over the slide's metadata."""

    soft_label: tuple[float, ...] = ()
    """Shares of the classes in their order, which teach in the label's place; they sum to 1."""

    def __post_init__(self) -> None:
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.slide_id)

    def located(self) -> Path:
        """Where the slide lies; CohortError where the table does not say."""
        if self.slide_path is None:
            raise CohortError(f"slide {self.slide_id} has no slide_path", hint=HINT)
        return self.slide_path


COLUMNS = tuple(field.name for field in fields(CohortSlide))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides whose ids are unique and whose patients stay in one split."""

    slides: tuple[CohortSlide, ...]
    classes: tuple[str, ...]
    """In the order of the logits."""

    sha256: str
    """Of the table's bytes."""

    left_out: tuple[str, ...] = ()
    """Rows of joined tables that belong to no slide of the cohort, and why."""

    def of_split(self, name: str) -> tuple[CohortSlide, ...]:
        """Slides of the split `train`, `val` or `test`, in the table's order."""
        return tuple(slide for slide in self.slides if slide.split == name)


def read_cohort(
    path: Path,
    *,
    classes: tuple[str, ...] | None = None,
    need_labels: bool = True,
    need_paths: bool = True,
) -> Cohort:
    """The cohort in a CSV table of ours, CLAM's or TRIDENT's.

    classes: the labels that may occur; those of the table, sorted, where not given
    Paths are relative to the table's folder. Whether the files exist is not checked here.
    CohortError lists every row that cannot be used.
    """
    table = read_table(path)
    return cohort_of(table, classes=classes, need_labels=need_labels, need_paths=need_paths)


def cohort_of(
    table: Table,
    *,
    classes: tuple[str, ...] | None = None,
    need_labels: bool = True,
    need_paths: bool = True,
) -> Cohort:
    """The cohort in a table that is read already; see `read_cohort`."""
    table = renamed(table)
    table.require("slide_id", *(["slide_path"] if need_paths else []), hint=HINT)
    if not table.rows:
        raise CohortError(f"{table.path}: names no slide", hint="add a row for each slide")
    slides: list[tuple[int, CohortSlide]] = []
    problems: list[tuple[int, str]] = []
    for row in table.rows:
        try:
            slides.append((row.line, _slide(row.cells, table.path.absolute().parent)))
        except ConfigError as error:
            problems.append((row.line, str(error)))
    labels = classes or tuple(sorted({slide.label for _, slide in slides if slide.label}))
    for line, slide in slides:
        missing = {"slide_path": need_paths and slide.slide_path is None}
        missing["label"] = need_labels and slide.label is None
        problems += [(line, f"slide {slide.slide_id} has no {n}") for n, m in missing.items() if m]
        problems += [(line, problem) for problem in _label_faults(slide, labels)]
    problems += [*_repeated_ids(slides), *_split_faults(slides)]
    if problems:
        raise bad_rows(table.path, sorted(problems))
    if need_labels and classes is None and len(labels) < 2:
        raise CohortError(
            f"{table.path}: every slide has the label {labels[0]!r}",
            hint="add slides of another class",
        )
    return Cohort(tuple(slide for _, slide in slides), labels, table.sha256)


def renamed(table: Table) -> Table:
    """The table with our names of columns; ids are the names of files where it has none."""
    names = {
        name: SYNONYMS[name]
        for name in table.columns
        if name in SYNONYMS and SYNONYMS[name] not in table.columns
    }
    has_ids = "slide_id" in table.columns or "wsi" not in table.columns
    columns = [names.get(name, name) for name in table.columns]
    rows = []
    for row in table.rows:
        cells = {names.get(name, name): cell for name, cell in row.cells.items()}
        ids = {} if has_ids else {"slide_id": PurePath(row.cells["wsi"]).stem}
        rows.append(Row(row.line, ids | cells))
    return replace(table, columns=(*([] if has_ids else ["slide_id"]), *columns), rows=tuple(rows))


def write_cohort(path: Path, slides: Iterable[CohortSlide]) -> None:
    """Write a table that `read_cohort` reads back as the same slides.

    Paths inside the table's folder are written relative to it, so that both can move.
    """
    folder = path.absolute().parent
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for slide in slides:
        writer.writerow(_cell(getattr(slide, column), folder) for column in COLUMNS)
    write_bytes(path, text.getvalue().encode())


def _cell(value: str | float | Path | tuple[float, ...] | None, folder: Path) -> str:
    if isinstance(value, tuple):
        return ";".join(str(share) for share in value)
    if isinstance(value, Path):
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value.absolute())
    return "" if value is None else str(value)


def _slide(cells: dict[str, str], folder: Path) -> CohortSlide:
    """One row, checked by itself; ConfigError says what is wrong."""

    def path(column: str) -> Path | None:
        return folder / cells[column] if cells.get(column) else None

    slide_id = check_name(cells["slide_id"], "slide_id")
    for column in ("label", "patient_id"):
        if cells.get(column, "").startswith(FORMULA_STARTS):
            raise CohortError(f"{column} {cells[column]!r} begins as a spreadsheet's formula does")
    split = cells.get("split", "").lower()
    if split and split not in SPLITS:
        raise CohortError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return CohortSlide(
        slide_id=slide_id,
        slide_path=path("slide_path"),
        label=cells.get("label") or None,
        split=SPLITS.get(split),
        patient_id=cells.get("patient_id") or slide_id,
        annotation_path=path("annotation_path"),
        cells_path=path("cells_path"),
        mpp=_mpp(cells.get("mpp", "")),
        soft_label=_soft_label(cells.get("soft_label", "")),
    )


def _mpp(text: str) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not (math.isfinite(mpp) and mpp > 0):
        raise CohortError(f"mpp {text!r} is no positive number")
    return mpp


def _soft_label(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(share) for share in re.split(r"[;,\s]+", text)) if text else ()
    except ValueError:
        shares = (math.nan,)
    if shares and not (min(shares) >= 0 and abs(sum(shares) - 1) <= ROUNDED):  # NaN fails too
        raise CohortError(f"soft_label {text!r} is not a share for each class, of 1 in all")
    return shares


def _label_faults(slide: CohortSlide, classes: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with a slide's labels among these classes."""
    if slide.label is not None and slide.label not in classes:
        yield f"label {slide.label!r} is none of {', '.join(classes)}"
    if slide.soft_label and len(slide.soft_label) != len(classes):
        yield f"soft_label has {len(slide.soft_label)} shares, there are {len(classes)} classes"


def _repeated_ids(slides: list[tuple[int, CohortSlide]]) -> Iterator[tuple[int, str]]:
    first: dict[str, int] = {}
    for line, slide in slides:
        if slide.slide_id in first:
            yield line, f"slide {slide.slide_id} is on line {first[slide.slide_id]} too"
        first.setdefault(slide.slide_id, line)


def _split_faults(slides: list[tuple[int, CohortSlide]]) -> Iterator[tuple[int, str]]:
    """Patients in two splits, and slides in none where others have one."""
    splits: dict[str, str | None] = {}
    named = any(slide.split for _, slide in slides)
    for line, slide in slides:
        other = splits.setdefault(slide.patient_id, slide.split)
        if named and slide.split is None:
            yield line, f"slide {slide.slide_id} is in no split, though others are"
        elif other is not None and other != slide.split:
            yield line, f"patient {slide.patient_id} is in {slide.split} and in {other} too"
