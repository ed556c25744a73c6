"""The table of a cohort's slides: which files, labels, splits and patients belong together."""

import csv
import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from sagdeploy.errors import CohortError, ConfigError
from sagdeploy.files import check_name, write_bytes

MAX_BYTES = 64 * 1024**2
"""Of a table; a larger one is not a cohort's."""

SHOWN_ROWS = 20
"""Of the rows that cannot be used; the others are counted."""

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Accepted names of splits, and ours."""


@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One row of a cohort."""

    slide_id: str
    slide_path: Path
    label: str | None = None
    split: str | None = None
    """`train`, `val`, `test`, or None where the cohort names no splits."""

    patient_id: str = ""
    """The slide's own id where the table names no patient."""

    annotation_path: Path | None = None
    cells_path: Path | None = None
    mpp: float | None = None
    """Microns per pixel at level 0; wins over the slide's metadata."""

    def __post_init__(self) -> None:
        if not self.patient_id:
            object.__setattr__(self, "patient_id", self.slide_id)


COLUMNS = tuple(field.name for field in fields(CohortSlide))


@dataclass(frozen=True, slots=True)
class Cohort:
    """Slides whose ids are unique and whose patients stay in one split."""

    slides: tuple[CohortSlide, ...]
    classes: tuple[str, ...]
    """In the order of the logits."""

    sha256: str
    """Of the table's bytes."""

    def of_split(self, name: str) -> tuple[CohortSlide, ...]:
        """Slides of the split `train`, `val` or `test`, in the table's order."""
        return tuple(slide for slide in self.slides if slide.split == name)


def read_cohort(
    path: Path, *, classes: tuple[str, ...] | None = None, need_labels: bool = True
) -> Cohort:
    """The cohort in a CSV table; CohortError lists every row that cannot be used.

    classes: the labels that may occur; those of the table, sorted, where not given
    Paths are relative to the table's folder. Whether the files exist is not checked here.
    """
    data = _read(path)
    rows = list(_rows(path, data))
    known = set(classes) if classes is not None else None
    slides: list[tuple[int, CohortSlide]] = []
    problems: list[tuple[int, str]] = []
    for line, cells in rows:
        try:
            slide = _slide(cells, path.absolute().parent)
        except ConfigError as error:
            problems.append((line, str(error)))
            continue
        slides.append((line, slide))
        if need_labels and slide.label is None:
            problems.append((line, f"slide {slide.slide_id} has no label"))
        if known is not None and slide.label is not None and slide.label not in known:
            problems.append((line, f"label {slide.label!r} is none of {', '.join(classes or ())}"))
    problems += [*_repeated_ids(slides), *_split_faults(slides)]
    if problems:
        raise _bad_rows(path, sorted(problems))
    labels = sorted({slide.label for _, slide in slides if slide.label is not None})
    if need_labels and classes is None and len(labels) < 2:
        raise CohortError(
            f"{path}: every slide has the label {labels[0]!r}", hint="add slides of another class"
        )
    return Cohort(
        slides=tuple(slide for _, slide in slides),
        classes=tuple(labels) if classes is None else classes,
        sha256=hashlib.sha256(data).hexdigest(),
    )


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


def _cell(value: str | float | Path | None, folder: Path) -> str:
    if isinstance(value, Path):
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value.absolute())
    return "" if value is None else str(value)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CohortError(f"{path}: no such table", hint="pass the path of a cohort.csv")
        if path.stat().st_size > MAX_BYTES:
            raise CohortError(f"{path}: over {MAX_BYTES:,} bytes, which is no table of slides")
        return path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path}: cannot be read: {error.strerror}") from error


def _rows(path: Path, data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Cells by column, of each row that is not blank, with the number of its last line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{path}: not UTF-8: {error}", hint="save it as CSV UTF-8") from error
    if "\0" in text:
        raise CohortError(f"{path}: holds a NUL character", hint="save it as CSV UTF-8")
    header, _, _ = text.partition("\n")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = _columns(path, next(reader, []))
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise CohortError(f"{path}: line {reader.line_num}: {error}") from error
    rows = [(line, cells) for line, cells in rows if any(cells)]
    ragged = [
        (line, f"has {len(cells)} cells, the header {len(columns)}")
        for line, cells in rows
        if len(cells) != len(columns)
    ]
    if ragged:
        raise _bad_rows(path, ragged)
    if not rows:
        raise CohortError(f"{path}: names no slide", hint="add a row for each slide")
    for line, cells in rows:
        yield line, dict(zip(columns, cells, strict=True))


def _columns(path: Path, header: list[str]) -> list[str]:
    columns = [name.strip() for name in header]
    missing = [name for name in ("slide_id", "slide_path") if name not in columns]
    if missing:
        raise CohortError(
            f"{path}: has no column {' or '.join(missing)}, only {', '.join(columns) or 'none'}",
            hint="the first line names the columns: slide_id,slide_path,label",
        )
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise CohortError(f"{path}: has the column {', '.join(sorted(twice))} twice")
    return columns


def _slide(cells: dict[str, str], folder: Path) -> CohortSlide:
    """One row, checked by itself; ConfigError says what is wrong."""

    def path(column: str) -> Path | None:
        return folder / cells[column] if cells.get(column) else None

    slide_id = check_name(cells["slide_id"], "slide_id")
    slide_path = path("slide_path")
    if slide_path is None:
        raise CohortError(f"slide {slide_id} has no slide_path")
    split = cells.get("split", "").lower()
    if split and split not in SPLITS:
        raise CohortError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return CohortSlide(
        slide_id=slide_id,
        slide_path=slide_path,
        label=cells.get("label") or None,
        split=SPLITS.get(split),
        patient_id=cells.get("patient_id") or slide_id,
        annotation_path=path("annotation_path"),
        cells_path=path("cells_path"),
        mpp=_mpp(cells.get("mpp", "")),
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


def _bad_rows(path: Path, problems: list[tuple[int, str]]) -> CohortError:
    shown = "".join(f"\n  line {line}: {problem}" for line, problem in problems[:SHOWN_ROWS])
    more = len(problems) - SHOWN_ROWS
    rest = f"\n  and {more} more" if more > 0 else ""
    plural = "problem" if len(problems) == 1 else "problems"
    return CohortError(
        f"{path}: {len(problems)} {plural}{shown}{rest}", hint="mend these rows and run it again"
    )
