"""Results as tables that a spreadsheet or a data frame reads."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from sagdeploy.files import write_whole
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.record import PredictionRecord
from sagdeploy.report.scale import percentiles

Cell = str | int | float

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes text that begins so for a formula, and runs it."""

TILES_HEADER = (
    "magnification", "mpp", "x_l0", "y_l0", "width_l0", "height_l0",
    "attention", "attention_percentile", "tissue",
)  # fmt: skip


def write_tiles(path: Path, prediction: Prediction) -> None:
    """Write one row a tile: where it lies, its attention, its share of tissue.

    `magnification` counts from 0 in the order of the model's `attention` outputs.
    """
    _write(path, TILES_HEADER, _tile_rows(prediction))


def write_predictions(path: Path, records: Sequence[PredictionRecord]) -> None:
    """Write one row a slide; its numbers stay empty where there is no diagnosis."""
    diagnoses = [record.prediction for record in records if record.prediction]
    classes = list(dict.fromkeys(name for each in diagnoses for name in each.probabilities))
    header = ("slide_id", "status", "prediction", *(f"prob_{name}" for name in classes), "message")
    _write(path, header, (_prediction_row(record, classes) for record in records))


def _tile_rows(prediction: Prediction) -> Iterable[Sequence[Cell]]:
    layers = zip(
        prediction.tiles, prediction.diagnosis.attention, prediction.tissue_coverage, strict=True
    )
    for magnification, (tiles, attention, tissue) in enumerate(layers):
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
