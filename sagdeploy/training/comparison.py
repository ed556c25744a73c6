"""Arms side by side, as in the paper's Table 1, paired over the seeds that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagdeploy.errors import ConfigError
from sagdeploy.training.evaluate import Evaluation, Split, read_evaluation
from sagdeploy.training.intervals import Interval, mean_interval
from sagdeploy.training.metrics import mean_of

COLUMNS = {
    "accuracy": "Acc",
    "precision_macro": "P",
    "recall_macro": "R",
    "auc": "AUC",
    "balanced_accuracy": "Balanced acc",
    "attention_on_tissue": "Attention on tissue",
    "attention_on_heuristic": "Attention on region",
    "attention_auprc": "Attention AUPRC",
}
"""Metrics of the table, all in per cent."""

NOTE = """\
Mean ± sd over {seeds} seeds on {slides} slides of {patients} patients ({split}), in per cent.
P and R are macro. Always answering the commonest class: {majority:.1f}. In brackets, the
difference from the first row, paired by seed, with its 95 % interval over seeds: whether the
training is better *on these slides*. It does not say whether it would be better on new patients,
which takes an interval over patients too."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm of a comparison."""

    arm: str
    mean: dict[str, float]
    sd: dict[str, float]
    difference: dict[str, Interval]
    """From the first arm, over the seeds that both have; empty for the first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms on the same slides."""

    rows: tuple[ArmRow, ...]
    split: Split
    slides: int
    patients: int
    seeds: int
    majority_accuracy: float

    def markdown(self) -> str:
        """The table, and what may be concluded from it."""
        names = [name for name in COLUMNS if any(name in row.mean for row in self.rows)]
        lines = [
            "| Arm | " + " | ".join(COLUMNS[name] for name in names) + " |",
            "|---|" + "---|" * len(names),
            *(
                f"| {row.arm} | " + " | ".join(_cell(row, name) for name in names) + " |"
                for row in self.rows
            ),
        ]
        note = NOTE.format(
            seeds=self.seeds,
            slides=self.slides,
            patients=self.patients,
            split=self.split,
            majority=100 * self.majority_accuracy,
        )
        return "\n".join([*lines, "", note, ""])


def compare(runs: Sequence[Path], *, split: Split = "test") -> Comparison:
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
    return Comparison(
        rows=tuple(_row(evaluation, first) for evaluation in evaluations),
        split=split,
        slides=first.slides,
        patients=first.patients,
        seeds=min(len(evaluation.seeds) for evaluation in evaluations),
        majority_accuracy=first.mean["majority_accuracy"],
    )


def _row(evaluation: Evaluation, first: Evaluation) -> ArmRow:
    differences: dict[str, Interval] = {}
    if evaluation is not first:
        intervals = {name: _paired(evaluation, first, name) for name in COLUMNS}
        differences = {name: i for name, i in intervals.items() if i is not None}
    return ArmRow(evaluation.arm, evaluation.mean, evaluation.sd, differences)


def _paired(own: Evaluation, other: Evaluation, name: str) -> Interval | None:
    """Difference of one metric over the seeds that both have; folds of a seed count as one."""
    ours, theirs = _by_seed(own, name), _by_seed(other, name)
    return mean_interval(
        [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    )


def _by_seed(evaluation: Evaluation, name: str) -> dict[int, float]:
    seeds = {scores.seed for scores in evaluation.seeds}
    means = {
        seed: mean_of(s.metrics.get(name) for s in evaluation.seeds if s.seed == seed)
        for seed in seeds
    }
    return {seed: mean for seed, mean in means.items() if mean is not None}


def _cell(row: ArmRow, name: str) -> str:
    if name not in row.mean:
        return "n/a"
    text = f"{100 * row.mean[name]:.1f}"
    if name in row.sd:
        text += f" ± {100 * row.sd[name]:.1f}"
    if name in row.difference:
        d = row.difference[name]
        text += f" ({100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}])"
    return text
