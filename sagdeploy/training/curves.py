"""How each seed of a run learned, as charts: loss, validation, guidance, weights of the terms.

RUN/curves.svg
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sagdeploy.files import write_bytes
from sagdeploy.training.axis import Axis, axis_of
from sagdeploy.training.chart import Chart, Dots, Line, Mark, sheet
from sagdeploy.training.checkpoint import SeedResult, read_results, read_run, seed_folder
from sagdeploy.training.metrics import Float64
from sagdeploy.training.svg import PALETTE
from sagdeploy.training.train import METRICS_FILE

CURVES_FILE = "curves.svg"

WEIGHTS = "Weights of the terms, Eq. 6"
CHARTS: dict[str, dict[str, str]] = {
    "Loss": {"loss": "training", "validation_loss": "validation"},
    "Classification": {"classification": "training", "validation_loss": "validation"},
    "On validation": {"validation_auc": "AUC", "validation_accuracy": "accuracy"},
    "Heuristic guidance, Eq. 4": {"hg": ""},
    "Tissue guidance, Eq. 5": {"tg": ""},
    WEIGHTS: {
        "weight_classification": "classification",
        "weight_hg": "HG",
        "weight_tg": "TG",
    },
}
"""Columns of the metrics by chart, each with its name in the legend; a lone one needs none."""

THIN = 0.35
"""How much of a single seed's line is seen behind the mean of all."""


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What one training measured, epoch by epoch."""

    result: SeedResult
    columns: dict[str, Float64]
    """(epochs,) by the names of the metrics file, NaN where empty."""


def draw_curves(run: Path) -> Path:
    """Write the curves of a run's seeds that are done; returns the file."""
    record, results = read_run(run), read_results(run)
    curves = [Curves(result, _read(run, result)) for result in results]
    known = {name for each in curves for name, column in each.columns.items() if _varies(column)}
    charts = [
        _chart(title, {name: text for name, text in names.items() if name in known}, curves)
        for title, names in CHARTS.items()
        if known & names.keys() and not _repeats(title, known)
    ]
    path = run / CURVES_FILE
    note = f"{_counted(results)}; the dots are the epochs that were kept"
    write_bytes(path, sheet(charts, title=record.arm, note=note).encode())
    return path


def _read(run: Path, result: SeedResult) -> dict[str, Float64]:
    text = (seed_folder(run, result.seed, result.fold) / METRICS_FILE).read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def _varies(column: Float64) -> bool:
    return bool(np.isfinite(column).any())


def _repeats(title: str, known: set[str]) -> bool:
    """Whether a chart would show what another shows: without guidance there is one term."""
    has_terms = bool({"hg", "tg"} & known)
    return title == ("Loss" if has_terms else "Classification") or (
        not has_terms and title == WEIGHTS
    )


def _counted(results: Sequence[SeedResult]) -> str:
    seeds = len({result.seed for result in results})
    folds = len({result.fold for result in results if result.fold is not None})
    text = f"{seeds} seed{'s' if seeds > 1 else ''}"
    return f"{text}, {folds} folds" if folds else text


def _chart(title: str, names: dict[str, str], curves: Sequence[Curves]) -> Chart:
    values = [each.columns[name] for name in names for each in curves if name in each.columns]
    y = axis_of("", values, is_log=title == WEIGHTS)
    if title == "On validation":
        y = Axis("", min(0.45, y.low), 1.02)
    longest = max(len(column) for column in values)
    marks = [
        mark
        for colour, (name, text) in zip(PALETTE, names.items(), strict=False)
        for mark in _marks(name, text, colour, [each for each in curves if name in each.columns])
    ]
    return Chart(title, Axis("epoch", 0, max(longest, 1) + 0.5), y, tuple(marks))


def _marks(name: str, text: str, colour: str, curves: Sequence[Curves]) -> Iterator[Mark]:
    """Each training thin, their mean, and the epochs that were kept."""
    several = len(curves) > 1
    for each in curves:
        column = each.columns[name]
        epochs = np.arange(1.0, len(column) + 1)
        yield Line(
            epochs, column, colour, "" if several else text, *((1.0, THIN) if several else ())
        )
    if several:
        shared = min(len(each.columns[name]) for each in curves)
        mean = np.mean([each.columns[name][:shared] for each in curves], axis=0)
        yield Line(np.arange(1.0, shared + 1), mean, colour, text)
    if name.startswith("validation"):
        kept = [each.result.epoch for each in curves]
        at = np.array([each.columns[name][e - 1] for each, e in zip(curves, kept, strict=True)])
        yield Dots(np.array(kept, np.float64)[np.isfinite(at)], at[np.isfinite(at)], colour)
