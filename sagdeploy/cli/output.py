"""What the command line says: results on stdout, messages and errors on stderr."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sagdeploy.bags.cohort import Cohort
from sagdeploy.files import canonical_json
from sagdeploy.pipeline.outcome import SlideOutcome

if TYPE_CHECKING:  # these import torch, which a client need not have
    from sagdeploy.demo import ArmResult, DemoResult
    from sagdeploy.training.evaluate import Evaluation
    from sagdeploy.training.intervals import Interval

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(highlight=False, soft_wrap=True, stderr=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)
"""Not silent with --quiet."""

STYLES = {
    **{"done": "green", "not_analysable": "yellow", "failed": "red"},
    **{"PASS": "green", "WARN": "yellow", "FAIL": "red"},
}


def show_json(value: Any) -> None:
    """Print a value for machines."""
    sys.stdout.write(canonical_json(value))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table for people."""
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell), STYLES.get(str(cell), "")) for cell in row))
    stdout.print(table)


def say(message: str) -> None:
    """Tell a person what is going on."""
    stderr.print(escape(message))


def show_failures(outcomes: Sequence[SlideOutcome]) -> None:
    """Tell which slides of a batch are not done, and why."""
    failed = [outcome for outcome in outcomes if outcome.status != "done"]
    if failed and len(outcomes) > 1:
        table = Table(title=f"{len(failed)} slides not done", title_justify="left")
        for column in ("slide", "exit code", "why"):
            table.add_column(column, overflow="fold")
        for outcome in failed:
            table.add_row(escape(outcome.slide_id), str(outcome.exit_code), escape(outcome.message))
        errors.print(table)


def say_left_out(cohort: Cohort) -> None:
    """Tell which rows of joined tables belong to no slide of the cohort."""
    for row in cohort.left_out:
        say(f"left out: {row}")


def show_evaluation(evaluation: "Evaluation") -> None:
    """Print what a run is worth: mean over seeds, and the interval over patients."""
    rows = []
    for name, value in evaluation.mean.items():
        interval = evaluation.intervals.get(name)
        spread = f"{evaluation.sd[name]:.3f}" if name in evaluation.sd else ""
        rows.append((name, f"{value:.3f}", spread, *_interval(interval)))
    title = f"{evaluation.arm}: {evaluation.slides} slides, {evaluation.patients} patients"
    columns = ("mean", "sd of seeds", "95 % over patients", "by")
    show_table(("metric", *columns), rows, title)
    for map_name, found in evaluation.baselines.items():
        maps = [(name, f"{i.value:.3f}", *_interval(i)) for name, i in found.items()]
        show_table(("metric", "mean", *columns[2:]), maps, f"without a model: {map_name}")
    for measure, reason in evaluation.left_out.items():
        say(f"left out: {measure}: {reason}")
    gain = evaluation.intervals.get("deletion_gain")
    if gain is not None and gain.low <= 0:
        say(
            "taking tiles away by attention is not shown to change the diagnosis more than in "
            "random order: the map says where the model looked, not why it decided"
        )


def _interval(interval: "Interval | None") -> tuple[str, str]:
    """The interval, and how it was found."""
    if interval is None:
        return "", ""
    method = interval.method.removesuffix(" bootstrap over patients")
    return f"{interval.low:.3f} to {interval.high:.3f}", method


def show_markdown(text: str) -> None:
    """Print a table that is Markdown already."""
    sys.stdout.write(text.rstrip() + "\n")


DEMO_COLUMNS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "attention_on_heuristic": "attention in lesion",
    "attention_on_tissue": "attention on tissue",
}


def show_demo(result: "DemoResult") -> None:
    """Print what the demo measured, what it made, and how long it took."""
    rows = [
        (arm.arm, *(_over_seeds(arm, metric) for metric in DEMO_COLUMNS)) for arm in result.arms
    ]
    title = f"{result.slides} held-out painted slides: mean over seeds (lowest to highest)"
    show_table(("arm", *DEMO_COLUMNS.values()), rows, title)
    show_table(("stage", "seconds"), result.seconds.items())
    say(f"features: {result.extractor}; a stand-in for a real extractor")
    say(f"the arms side by side: open {result.comparison}")
    say(f"a held-out slide, {result.diagnosis}: open {result.report}")


def _over_seeds(arm: "ArmResult", metric: str) -> str:
    values = [value for seed in arm.seeds if (value := seed.get(metric)) is not None]
    if not values:
        return "undefined"
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"
