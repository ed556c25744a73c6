"""Arms side by side, as in the paper's Table 1, and what may be said of their differences."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from sagdeploy.config import Strict
from sagdeploy.errors import ConfigError
from sagdeploy.training.contrast import Difference, by_seed, differences, holm
from sagdeploy.training.evaluate import RESAMPLES, Evaluation, Split, read_evaluation
from sagdeploy.training.intervals import Interval
from sagdeploy.training.judgement import Judged
from sagdeploy.training.predictions import predictions_file, read_predictions

COLUMNS = {
    "accuracy": "Acc",
    "precision_macro": "P",
    "recall_macro": "R",
    "auc": "AUC",
    "attention_on_tissue": "Attention on tissue",
    "attention_on_heuristic": "Attention on region",
    "attention_auprc": "Attention AUPRC",
    "deletion_gain": "Deletion gain",
    "froc": "FROC",
}
"""Metrics of the table, all in per cent and the higher the better. FROC is not a mean over
slides that the predictions hold, so that its differences are not tested."""

TESTED = tuple(name for name in COLUMNS if name != "froc")
SIGNIFICANT = 0.05

NOTE = """\
Mean ± sd over the seeds of each arm, {slides} slides of {patients} patients ({split}), in per
cent. P and R are macro, so that R is the balanced accuracy. Always answering the commonest
class: {majority:.1f}. The arms have looked at these slides {opened} times."""

EXPLANATION = """\
Arm minus first row, over the seeds that both have, in points. *On this test set*: 95 % interval
of the paired seeds (Student's t), p of changing their signs, share of the seeds that are above.
It stays with these slides and says nothing of others. *For new patients*: 95 % interval over
patients (paired bootstrap, of the mean over the seeds, widened by what the seeds add), its p,
and that by Holm over the {family} rows of this table, which the verdict goes by. Only this may be
called an improvement. In brackets, the difference that a test set of this size, and as many
seeds, would show four times in five."""

Verdict = Literal["improvement", "worse", "not shown"]


class ArmDifference(Difference):
    """A difference, with what may be said of it for new patients."""

    holm_p: float | None
    """`patients_p`, adjusted over all differences of the comparison."""

    verdict: Verdict


class ArmRow(Strict):
    """One arm of a comparison."""

    arm: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    """Over the seeds."""

    sd: dict[str, float]
    differences: dict[str, ArmDifference]
    """From the first arm, by metric; empty for the first."""


class Comparison(Strict):
    """Arms on the same slides."""

    rows: tuple[ArmRow, ...]
    baselines: dict[str, dict[str, Interval]]
    """Attention that knows no model, by name of map and metric."""

    split: Split
    slides: int
    patients: int
    majority_accuracy: float
    opened: int
    """How often the arms were evaluated on these slides, together."""

    def markdown(self) -> str:
        """The table, the differences, and what may be concluded from them."""
        note = NOTE.format(
            slides=self.slides,
            patients=self.patients,
            split=self.split,
            majority=100 * self.majority_accuracy,
            opened=self.opened,
        )
        alike, names = told_apart([row.arm for row in self.rows])
        arms = [*([f"All arms: {alike}.", ""] if alike else []), *self._arms(names)]
        told = [
            (arm, metric, found)
            for arm, row in zip(names, self.rows, strict=True)
            for metric, found in row.differences.items()
        ]
        if not told:
            return "\n".join([*arms, "", note, ""])
        lines = [
            "| Arm | Metric | Difference | On this test set | For new patients | Verdict |",
            "|---|---|---|---|---|---|",
            *(_line(arm, name, found) for arm, name, found in told),
        ]
        explanation = EXPLANATION.format(family=len(told))
        return "\n".join([*arms, "", note, "", *lines, "", explanation, ""])

    def _arms(self, arms: Sequence[str]) -> list[str]:
        metrics = [name for name in COLUMNS if any(name in row.mean for row in self.rows)]
        rows = [
            (arm, {name: _mean(row, name) for name in row.mean})
            for arm, row in zip(arms, self.rows, strict=True)
        ]
        maps = [
            (f"*{name}*", {metric: f"{100 * i.value:.1f}" for metric, i in found.items()})
            for name, found in self.baselines.items()
        ]
        return [
            "| Arm | " + " | ".join(COLUMNS[name] for name in metrics) + " |",
            "|---|" + "---|" * len(metrics),
            *(
                f"| {arm} | " + " | ".join(cells.get(name, "n/a") for name in metrics) + " |"
                for arm, cells in [*rows, *maps]
            ),
        ]


def compare(
    runs: Sequence[Path], *, split: Split = "test", resamples: int = RESAMPLES
) -> Comparison:
    """Runs side by side, the first as the baseline; ConfigError where they cannot be compared.

    Every run must have been evaluated on `split` with the same cohort.
    """
    evaluations = [read_evaluation(run, split) for run in runs]
    if not evaluations:
        raise ConfigError("no run to compare", hint="run sagdeploy compare RUN RUN")
    first = evaluations[0]
    for run, other in zip(runs, evaluations, strict=True):
        if (other.cohort_sha256, other.classes) != (first.cohort_sha256, first.classes):
            raise ConfigError(
                f"{run}: evaluated on another cohort than {runs[0]}",
                hint="evaluate all runs with the same cohort.csv",
            )
    judged = [read_predictions(predictions_file(run, split), first.classes) for run in runs]
    _check_slides(runs, judged)
    found = [differences(arm, judged[0], metrics=TESTED, resamples=resamples) for arm in judged[1:]]
    pairs = zip(evaluations, [{}, *with_verdicts(found)], strict=True)
    return Comparison(
        rows=tuple(_row(evaluation, own) for evaluation, own in pairs),
        baselines=first.baselines,
        split=split,
        slides=first.slides,
        patients=first.patients,
        majority_accuracy=first.mean["majority_accuracy"],
        opened=sum(evaluation.opened for evaluation in evaluations),
    )


def told_apart(arms: Sequence[str]) -> tuple[str, list[str]]:
    """What the names of some arms begin with alike, and the rest of each, which is never empty."""
    parts = [arm.split(", ") for arm in arms]
    firsts = zip(*(part[:-1] for part in parts), strict=False)
    shared = list(takewhile(lambda same: len(set(same)) == 1, firsts)) if len(arms) > 1 else []
    alike = ", ".join(part for part, *_ in shared)
    return alike, [", ".join(part[len(shared) :]) for part in parts]


def with_verdicts(
    arms: Sequence[Mapping[str, Difference]],
) -> list[dict[str, ArmDifference]]:
    """Differences of arms from one baseline, with the verdicts that one family of tests allows."""
    p_values = {
        f"{index} {name}": found.patients_p
        for index, arm in enumerate(arms)
        for name, found in arm.items()
        if found.patients_p is not None
    }
    adjusted = holm(p_values)
    return [
        {name: _judged(found, adjusted.get(f"{index} {name}")) for name, found in arm.items()}
        for index, arm in enumerate(arms)
    ]


def _judged(found: Difference, holm_p: float | None) -> ArmDifference:
    verdict: Verdict = "not shown"
    interval = found.patients
    if interval is not None and holm_p is not None and holm_p < SIGNIFICANT:
        if interval.low > 0:
            verdict = "improvement"
        elif interval.high < 0:
            verdict = "worse"
    return ArmDifference(**dict(found), holm_p=holm_p, verdict=verdict)


def _check_slides(runs: Sequence[Path], judged: Sequence[Judged]) -> None:
    """ConfigError unless every seed of every run is of the same slides, patients and labels."""
    seen = None
    for run, arm in zip(runs, judged, strict=True):
        for seed, views in by_seed(arm).items():
            own = [(slide.slide_id, slide.patient_id, slide.label) for slide in views.slides]
            if seen is not None and own != seen:
                raise ConfigError(
                    f"{run}: seed {seed} is of other slides than {runs[0]}",
                    hint="train the folds that are missing, and evaluate again",
                )
            seen = own


def _row(evaluation: Evaluation, found: dict[str, ArmDifference]) -> ArmRow:
    return ArmRow(
        arm=evaluation.arm,
        seeds=tuple(dict.fromkeys(scores.seed for scores in evaluation.seeds)),
        mean=evaluation.mean,
        sd=evaluation.sd,
        differences=found,
    )


def _mean(row: ArmRow, name: str) -> str:
    text = f"{100 * row.mean[name]:.1f}"
    return text + (f" ± {100 * row.sd[name]:.1f}" if name in row.sd else "")


def _line(arm: str, name: str, found: ArmDifference) -> str:
    here = "one seed: n/a"
    if found.seeds is not None and found.seeds_p is not None:
        here = f"{_range(found.seeds)}, {_p(found.seeds_p)}, above in {found.share_above:.0%}"
    anywhere = "n/a"
    if found.patients and found.patients_p is not None and found.holm_p is not None:
        anywhere = f"{_range(found.patients)}, {_p(found.patients_p)}, Holm's {_p(found.holm_p)}"
    verdict: str = found.verdict
    if found.verdict == "not shown" and found.detectable is not None:
        verdict += f" ({100 * found.detectable:.1f})"
    value = f"{100 * found.value:+.1f}"
    return f"| {arm} | {COLUMNS[name]} | {value} | {here} | {anywhere} | {verdict} |"


def _range(interval: Interval) -> str:
    return f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _p(value: float) -> str:
    return f"p {value:.3f}" if value >= 0.001 else "p < 0.001"
