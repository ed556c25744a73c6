"""Several tables as one cohort: STAMP's two, CLAM's splits, Camelyon16's reference.

Rows that find no partner are no error, as such tables often say more than is at hand, but
each of them is told in `Cohort.left_out`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sagdeploy.bags.camelyon16 import REFERENCE_COLUMNS, is_reference, officially_split
from sagdeploy.bags.cohort import SPLITS, Cohort, cohort_of, renamed
from sagdeploy.bags.rows import Row, Table, bad_rows, read_table

STAMP_HINT = "STAMP's clini table has a column PATIENT, its slide table PATIENT and FILENAME"
CLAM_HINT = "CLAM's splits_0.csv has columns train, val and test"
SPLIT_NAMES = ("train", "val", "test")


def read_tables(
    path: Path,
    *,
    slide_table: Path | None = None,
    splits: Path | None = None,
    label: str = "label",
) -> Cohort:
    """The labelled cohort in a table, or in several that are joined by slide or patient.

    path:        the cohort's table, CLAM's, or STAMP's clini table
    slide_table: STAMP's, which names the patients' feature files
    splits:      CLAM's, or Camelyon16's reference.csv, which says the labels of `test` too
    label:       column of the labels
    CohortError lists every row that cannot be used.
    """
    left_out: list[str] = []
    table = _labelled(read_table(path), label)
    hashes = [table.sha256]
    if slide_table is not None:
        slides = read_table(slide_table)
        hashes.append(slides.sha256)
        table = _joined(table, slides, left_out)
    if splits is not None:
        assigned = read_table(splits)
        hashes.append(assigned.sha256)
        table = _split(renamed(table), assigned, left_out)
    if len(hashes) > 1:
        table = replace(table, sha256=hashlib.sha256(" ".join(hashes).encode()).hexdigest())
    return replace(cohort_of(table, need_paths=False), left_out=tuple(left_out))


def _labelled(table: Table, label: str) -> Table:
    """The table with its labels in the column `label`."""
    if label == "label":
        return table
    table.require(label, hint="name the column of the labels: --label COLUMN")
    columns = tuple(dict.fromkeys([*table.columns, "label"]))
    rows = tuple(Row(row.line, row.cells | {"label": row.cells[label]}) for row in table.rows)
    return replace(table, columns=columns, rows=rows)


def _joined(clini: Table, slides: Table, left_out: list[str]) -> Table:
    """STAMP's tables as one, a row for each slide whose patient has a label."""
    clini.require("PATIENT", "label", hint=STAMP_HINT)
    slides.require("PATIENT", "FILENAME", hint=STAMP_HINT)
    seen = Counter(row.cells["PATIENT"] for row in clini.rows)
    twice = [row for row in clini.rows if seen[row.cells["PATIENT"]] > 1]
    if twice:
        said = [(row.line, f"patient {row.cells['PATIENT']} is there twice") for row in twice]
        raise bad_rows(clini.path, said)
    labels = {row.cells["PATIENT"]: row.cells["label"] for row in clini.rows}
    have_slides = {row.cells["PATIENT"] for row in slides.rows}
    for row in clini.rows:
        patient = row.cells["PATIENT"]
        if not row.cells["label"] or patient not in have_slides:
            lacks = "slide" if row.cells["label"] else "label"
            left_out.append(f"{_place(clini, row)}: patient {patient} has no {lacks}")
    rows, faults = [], []
    for row in slides.rows:
        file, patient = PurePosixPath(row.cells["FILENAME"]), row.cells["PATIENT"]
        if file.suffix != ".h5" or len(file.parts) != 1:
            faults.append((row.line, f"FILENAME {str(file)!r} is no .h5 file of the bags' folder"))
        elif not labels.get(patient):
            left_out.append(f"{_place(slides, row)}: patient {patient} of {file} has no label")
        else:
            cells = {"slide_id": file.stem, "patient_id": patient, "label": labels[patient]}
            rows.append(Row(row.line, cells))
    if faults:
        raise bad_rows(slides.path, faults)
    return replace(slides, columns=("slide_id", "patient_id", "label"), rows=tuple(rows))


def _split(table: Table, splits: Table, left_out: list[str]) -> Table:
    """The table with the splits that another assigns to its slides."""
    table.require("slide_id", hint="splits are found by slide_id")
    if is_reference(splits):
        reference = read_table(splits.path, REFERENCE_COLUMNS)
        return officially_split(table, reference, left_out)
    splits.require(*SPLIT_NAMES, hint=CLAM_HINT)
    assigned = _assigned(splits)
    rows, faults = [], []
    for row in table.rows:
        slide_id = row.cells["slide_id"]
        split, said = assigned.get(slide_id), row.cells.get("split", "")
        if split is None:
            left_out.append(f"{_place(table, row)}: slide {slide_id} is not in {splits.path.name}")
        elif said and SPLITS.get(said.lower()) != split:
            faults.append((row.line, f"slide {slide_id} is in {said}, but in {split} of --splits"))
        else:
            rows.append(Row(row.line, row.cells | {"split": split}))
    if faults:
        raise bad_rows(table.path, faults)
    for name in sorted(assigned.keys() - {row.cells["slide_id"] for row in table.rows}):
        left_out.append(f"{splits.path.name}: slide {name} is not in {table.path.name}")
    columns = tuple(dict.fromkeys([*table.columns, "split"]))
    return replace(table, columns=columns, rows=tuple(rows))


def _assigned(splits: Table) -> dict[str, str]:
    """Split of each slide in CLAM's splits; CohortError where a slide is in two."""
    assigned: dict[str, str] = {}
    faults = []
    for line, slide_id, split in _named(splits):
        if assigned.setdefault(slide_id, split) != split:
            faults.append((line, f"slide {slide_id} is in {split} and in {assigned[slide_id]}"))
    if faults:
        raise bad_rows(splits.path, faults)
    return assigned


def _named(splits: Table) -> Iterator[tuple[int, str, str]]:
    """(line, slide, split): the columns hold ids, or True and False beside a column of ids."""
    ids = next((name for name in splits.columns if name not in SPLIT_NAMES), None)
    for row in splits.rows:
        for split in SPLIT_NAMES:
            cell = row.cells[split]
            if cell == "True" and ids is not None:
                yield row.line, row.cells[ids], split
            elif cell not in ("", "True", "False"):
                yield row.line, cell, split


def _place(table: Table, row: Row) -> str:
    return f"{table.path.name} line {row.line}"
