"""The official test split of Camelyon16, and what its slides' names say of their labels."""

from collections.abc import Iterator
from dataclasses import replace

from sagdeploy.bags.rows import Row, Table, bad_rows

REFERENCE_COLUMNS = ("slide_id", "label", "tumour", "size")
"""Of its reference.csv, which has no header."""

TEST_PREFIX = "test_"
PREFIXES = {"normal_": "normal", "tumor_": "tumor"}
"""How the training slides are named, and their labels."""


def is_reference(table: Table) -> bool:
    """Whether a table is Camelyon16's reference.csv, whose first slide was taken for a header."""
    return bool(table.columns) and table.columns[0].startswith(TEST_PREFIX)


def officially_split(table: Table, reference: Table, left_out: list[str]) -> Table:
    """The table with the official labels, its test slides in `test` and the others as they were.

    left_out: is told of test slides that only one of the tables has; test_049 is one, which
        the organisers withdrew
    A slide that is in no split may train. CohortError where labels or splits contradict.
    """
    official = {row.cells["slide_id"]: row.cells["label"].casefold() for row in reference.rows}
    spelled = {label.casefold(): label for row in table.rows if (label := _label(row))}
    rows, faults = [], []
    for row in table.rows:
        slide_id = row.cells["slide_id"]
        if slide_id.startswith(TEST_PREFIX) and slide_id not in official:
            there = f"{table.path.name} line {row.line}"
            left_out.append(f"{there}: slide {slide_id} is not in {reference.path.name}")
            continue
        said = official.get(slide_id) or _by_prefix(slide_id)
        faults += [(row.line, fault) for fault in _contradictions(row, said, slide_id in official)]
        split = "test" if slide_id in official else row.cells.get("split") or "train"
        label = _label(row) or spelled.get(said, said)
        rows.append(Row(row.line, row.cells | {"label": label, "split": split}))
    if faults:
        raise bad_rows(table.path, faults)
    for name in sorted(official.keys() - {row.cells["slide_id"] for row in table.rows}):
        left_out.append(f"{reference.path.name}: slide {name} is not in {table.path.name}")
    columns = tuple(dict.fromkeys([*table.columns, "label", "split"]))
    return replace(table, columns=columns, rows=tuple(rows))


def _label(row: Row) -> str:
    return row.cells.get("label", "")


def _by_prefix(slide_id: str) -> str:
    return next((label for start, label in PREFIXES.items() if slide_id.startswith(start)), "")


def _contradictions(row: Row, said: str, is_test: bool) -> Iterator[str]:
    slide_id, split = row.cells["slide_id"], row.cells.get("split", "")
    if said and _label(row) and _label(row).casefold() != said:
        yield f"slide {slide_id} is {_label(row)!r}, in Camelyon16 it is {said!r}"
    if split and is_test != (split.lower() == "test"):
        yield f"slide {slide_id} is in {split!r}, against Camelyon16's official split"
