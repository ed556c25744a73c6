"""Results as tables that a spreadsheet or a data frame reads."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.rows import FORMULA_STARTS
from sagdeploy.errors import ConfigError
from sagdeploy.files import sha256_of, write_whole
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.scale import percentiles

Cell = str | int | float

PREDICTIONS = "predictions.csv"

TILES_HEADER = (
    "magnification", "mpp", "x_l0", "y_l0", "width_l0", "height_l0",
    "attention", "attention_percentile", "tissue",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """The attention of a slide's tiles at one magnification, as the table of tiles holds it."""

    mpp: float
    xy_l0: NDArray[np.int64]
    """(N, 2) top left of each tile."""

    size_l0: tuple[int, int]
    attention: NDArray[np.float32]
    """(N,)"""


def write_tiles(path: Path, prediction: Prediction) -> None:
    """Write one row a tile: where it lies, its attention, its share of tissue.

    `magnification` counts from 0 in the order of the model's `attention` outputs.
    """
    _write(path, TILES_HEADER, _tile_rows(prediction))


def read_tiles(path: Path) -> tuple[AttentionMap, ...]:
    """What `write_tiles` wrote, one map a magnification; ConfigError where it is not that."""
    with path.open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n")
        if header != ",".join(TILES_HEADER):
            raise ConfigError(f"{path.name}: not a table of tiles", hint="predict again")
        try:
            table = np.loadtxt(file, delimiter=",", ndmin=2)
        except ValueError as error:
            raise ConfigError(f"{path.name}: {error}", hint="predict again") from error
    return tuple(
        AttentionMap(
            mpp=float(rows[0, 1]),
            xy_l0=rows[:, 2:4].astype(np.int64),
            size_l0=(int(rows[0, 4]), int(rows[0, 5])),
            attention=rows[:, 6].astype(np.float32),
        )
        for rows in np.split(table, np.flatnonzero(np.diff(table[:, 0])) + 1)
    )


def write_predictions(
    path: Path, records: Sequence[PredictionRecord], unfinished: Sequence[str] = ()
) -> str:
    """Write one row a slide and return the table's SHA-256; what is not known stays empty.

    unfinished: slides that a run has not come to; they follow the others
    """
    diagnoses = [record.prediction for record in records if record.prediction]
    classes = list(dict.fromkeys(name for each in diagnoses for name in each.probabilities))
    header = ("slide_id", "status", "prediction", *(f"prob_{name}" for name in classes), "message")
    empty = ("",) * (len(header) - 2)
    rows = [*(_prediction_row(record, classes) for record in records)]
    rows += [(slide_id, "unfinished", *empty) for slide_id in unfinished]
    _write(path, header, rows)
    return sha256_of(path)


def _tile_rows(prediction: Prediction) -> Iterable[Sequence[Cell]]:
    magnifications = zip(
        prediction.tiles, prediction.diagnosis.attention, prediction.tissue_coverage, strict=True
    )
    for magnification, (tiles, attention, tissue) in enumerate(magnifications):
        fixed = tiles.size_l0
        numbers = zip(
            tiles.xy_l0.tolist(),
            attention.tolist(),
            percentiles(attention).tolist(),
            tissue.tolist(),
            strict=True,
        )
        for (x, y), *shares in numbers:
            yield magnification, tiles.mpp, x, y, *fixed, *(f"{share:.9g}" for share in shares)


def _prediction_row(record: PredictionRecord, classes: Sequence[str]) -> Sequence[Cell]:
    message = record.error.message if record.error else ""
    if record.prediction is None:
        return (record.slide_id, record.status, "", *("" for _ in classes), message)
    probabilities = record.prediction.probabilities
    return (
        record.slide_id,
        record.status,
        record.prediction.label,
        *(probabilities.get(name, "") for name in classes),
        message,
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    with write_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_safe(cell) for cell in row] for row in rows)


def _safe(cell: Cell) -> Cell:
    """The cell, with a quote before text that a spreadsheet would run."""
    if isinstance(cell, str) and cell.startswith(FORMULA_STARTS):
        return f"'{cell}"
    return cell
