"""Rows of a CSV table, read from untrusted text and numbered as a text editor shows them."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from sagdeploy.errors import CohortError

MAX_BYTES = 64 * 1024**2
"""Of a table; a larger one is not a cohort's."""

SHOWN_ROWS = 20
"""Of the rows that cannot be used; the others are counted."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes text that begins so for a formula, and runs it."""

SAVE_AS = "save it as CSV UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One row that is not blank."""

    line: int
    """Number of its last line in the file, from 1."""

    cells: dict[str, str]
    """By column, without the spaces around them."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str
    """Of the file's bytes."""

    def require(self, *columns: str, hint: str) -> None:
        """CohortError where one of `columns` is missing."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            there = ", ".join(filter(None, self.columns)) or "none"
            raise CohortError(
                f"{self.path}: has no column {' or '.join(missing)}, only {there}", hint=hint
            )


def read_table(path: Path, columns: tuple[str, ...] | None = None) -> Table:
    """The table in a file of cells with commas or semicolons between them.

    columns: their names, where the first line does not hold them
    CohortError where the file is none, or rows are not as long as the header.
    """
    data = _read(path)
    text = _decoded(path, data)
    header, _, _ = text.partition("\n")
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        named = _checked(path, columns or [name.strip() for name in next(reader, [])])
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise CohortError(f"{path}: line {reader.line_num}: {error}") from error
    lines = [(line, cells) for line, cells in lines if any(cells)]
    ragged = [
        (line, f"has {len(cells)} cells, the header {len(named)}")
        for line, cells in lines
        if len(cells) != len(named)
    ]
    if ragged:
        raise bad_rows(path, ragged)
    rows = tuple(Row(line, dict(zip(named, cells, strict=True))) for line, cells in lines)
    return Table(path, named, rows, hashlib.sha256(data).hexdigest())


def bad_rows(path: Path, problems: Sequence[tuple[int, str]]) -> CohortError:
    """The error that lists rows which cannot be used, each by its line and what is wrong."""
    shown = [f"line {line}: {problem}" for line, problem in problems[:SHOWN_ROWS]]
    if len(problems) > SHOWN_ROWS:
        shown.append(f"and {len(problems) - SHOWN_ROWS} more")
    plural = "problem" if len(problems) == 1 else "problems"
    return CohortError(
        f"{path}: {len(problems)} {plural}: {'; '.join(shown)}",
        hint="mend these rows and run it again",
    )


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise CohortError(f"{path}: no such table", hint="pass the path of a cohort.csv")
        if path.stat().st_size > MAX_BYTES:
            raise CohortError(f"{path}: over {MAX_BYTES:,} bytes, which is no table of slides")
        return path.read_bytes()
    except OSError as error:
        raise CohortError(f"{path}: cannot be read: {error.strerror}") from error


def _decoded(path: Path, data: bytes) -> str:
    if data.startswith(b"PK"):
        raise CohortError(f"{path}: a spreadsheet, not a CSV table", hint=SAVE_AS)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CohortError(f"{path}: not UTF-8: {error}", hint=SAVE_AS) from error
    if "\0" in text:
        raise CohortError(f"{path}: holds a NUL character", hint=SAVE_AS)
    return text


def _checked(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    twice = {name for name in columns if columns.count(name) > 1}
    if twice:
        raise CohortError(f"{path}: has the column {', '.join(sorted(twice))} twice")
    return tuple(columns)
