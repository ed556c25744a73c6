"""ROC curves of runs, each the mean of its seeds with its interval over patients, as charts.

Curves are averaged at equal false positive rates. The band holds 95 % of the resamples of
whole patients at each rate by itself; the interval of the AUC is the evaluation's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.files import write_bytes
from sagdeploy.training.axis import Axis
from sagdeploy.training.chart import Band, Chart, Line, Mark, sheet
from sagdeploy.training.evaluate import Evaluation, Split, read_evaluation
from sagdeploy.training.intervals import Interval, bootstrap_interval, resample
from sagdeploy.training.judgement import SlideJudgement
from sagdeploy.training.metrics import Float64, nan_mean, ratio, weighted_binary_auc
from sagdeploy.training.panel import RESAMPLING_SEED, Panel, panel
from sagdeploy.training.predictions import predictions_file, read_predictions
from sagdeploy.training.svg import PALETTE, SOFT

RATES = np.linspace(0, 1, 101)
RESAMPLES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """The ROC curve of one class by one run; true positive rates at RATES."""

    mean: Float64
    low: Float64
    high: Float64
    auc: Interval | None


def draw_roc(runs: Sequence[Path], path: Path, *, split: Split = "test") -> None:
    """Write the curves of evaluated runs on the same slides, a chart a class, into `path`.

    Of two classes the second has one chart, for the first has the same mirrored.
    """
    evaluations = [read_evaluation(run, split) for run in runs]
    classes = evaluations[0].classes
    panels = [
        panel(read_predictions(predictions_file(run, split), classes).values()) for run in runs
    ]
    shown = [1] if len(classes) == 2 else range(len(classes))
    charts = [_chart(classes, label, panels, evaluations) for label in shown]
    first = evaluations[0]
    title = first.arm if len(runs) == 1 else "ROC curves"
    note = f"{first.slides} slides of {first.patients} patients ({split}); mean over the seeds"
    note += " with its 95 % band over patients"
    write_bytes(path, sheet(charts, title=title, note=note).encode())


def roc_of(views: Panel, label: int) -> Roc | None:
    """The curve of one class against all others; None where a seed's slides lack either."""
    place = {slide.slide_id: index for index, slide in enumerate(views.slides)}

    def statistic(weights: Float64) -> dict[str, Float64]:
        rates, areas = [], []
        for view in views.views:
            own = weights[:, [place[slide.slide_id] for slide in view]]
            scores, is_positive = _scores(view, label)
            rates.append(true_positive_rates(scores, is_positive, own))
            areas.append(weighted_binary_auc(scores, is_positive, own))
        return {"rates": nan_mean(np.stack(rates)), "auc": nan_mean(np.stack(areas))}

    rng = np.random.default_rng(RESAMPLING_SEED)
    found = resample(statistic, views.patients, rng, resamples=RESAMPLES)
    rates = found["rates"]
    if not np.isfinite(rates.value).all():
        return None
    drawn = rates.drawn[:, np.isfinite(rates.drawn).all(axis=0)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    return Roc(rates.value, low, high, bootstrap_interval(found["auc"]))


def true_positive_rates(
    scores: Float64, is_positive: NDArray[np.bool_], weights: Float64
) -> Float64:
    """The ROC curve at RATES for each of R weightings of n slides: (rates, R), NaN where undefined.

    weights: (R, n) how often each slide counts
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores are one step
    steps = [
        np.pad((weights * kind)[:, order].cumsum(axis=1)[:, ends], ((0, 0), (1, 0)))
        for kind in (is_positive, ~is_positive)
    ]
    true, false = (ratio(step, step[:, -1:]) for step in steps)  # (R, steps)
    return np.stack([np.interp(RATES, x, y) for x, y in zip(false, true, strict=True)], axis=1)


def _scores(view: Sequence[SlideJudgement], label: int) -> tuple[Float64, NDArray[np.bool_]]:
    scores = np.array([slide.probabilities[label] for slide in view])
    return scores, np.array([slide.label == label for slide in view])


def _chart(
    classes: Sequence[str], label: int, panels: Sequence[Panel], evaluations: Sequence[Evaluation]
) -> Chart:
    ends = np.array([0.0, 1.0])
    marks: list[Mark] = [Line(ends, ends, SOFT, width=1, dashed=True)]
    for colour, views, evaluation in zip(cycle(PALETTE), panels, evaluations, strict=False):
        curve = roc_of(views, label)
        if curve is None:
            continue
        auc = evaluation.intervals.get("auc") if len(classes) == 2 else curve.auc
        name = f"{evaluation.arm}: " if len(panels) > 1 else ""
        marks.append(Band(RATES, curve.low, curve.high, colour))
        x, y = np.append(0.0, RATES), np.append(0.0, curve.mean)
        marks.append(Line(x, y, colour, f"{name}AUC {_told(auc, curve)}"))
    return Chart(
        classes[label], Axis("false positive rate", -0.02, 1.02),
        Axis("true positive rate", -0.02, 1.02), tuple(marks),
    )  # fmt: skip


def _told(auc: Interval | None, curve: Roc) -> str:
    if auc is None:
        return f"{np.trapezoid(curve.mean, RATES):.3f}"
    return f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})"
