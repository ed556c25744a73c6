"""What the command line shows: results on stdout, progress, messages and errors on stderr."""

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sagdeploy.bags.cohort import Cohort
from sagdeploy.files import canonical_json
from sagdeploy.pipeline.outcome import SlideOutcome

if TYPE_CHECKING:  # these import torch, which a client need not have
    from sagdeploy.demo import ArmResult, DemoResult
    from sagdeploy.training.evaluate import Evaluation
    from sagdeploy.training.intervals import Interval
    from sagdeploy.training.train import EpochDone

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


class _Bar:
    """A progress bar on a terminal, and nothing elsewhere."""

    def __init__(self, *columns: ProgressColumn, **fields: Any) -> None:
        self._bar = Progress(
            *columns,
            console=stderr,
            disable=not stderr.is_terminal,
            redirect_stdout=sys.stdout.isatty(),  # or results would not reach their file
        )
        self._task = self._bar.add_task("", total=None, **fields)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


class SlideProgress(_Bar):
    """Progress over slides: a line for each that ended, and on a terminal a bar below.

    At the end it says how long they took.
    results: whether the line of a slide that is done is a result, and not progress
    """

    def __init__(self, title: str, slides: int, *, results: bool = False) -> None:
        super().__init__(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            rate="",
        )
        self._slides = slides
        self._results = results
        self._done = 0
        self._tiles = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None and self._done:
            tiles = f", {self._rate()}" if self._tiles else ""
            slides = "1 slide" if self._done == 1 else f"{self._done:,} slides"
            say(f"{slides} in {_duration(time.monotonic() - self._begun)}{tiles}")

    def tiles(self, count: int) -> None:
        """Count tiles that were done, from any thread."""
        with self._lock:
            self._tiles += count
            self._bar.update(self._task, rate=self._rate())

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-3)
        return f"{self._tiles:,} tiles, {self._tiles / seconds:,.0f} a second"

    def count(self, done: int, slides: int) -> None:
        """Show that `done` of `slides` are done."""
        self._bar.update(self._task, completed=done, total=slides)

    def slide(self, outcome: SlideOutcome) -> SlideOutcome:
        """Show how a slide ended, and hand it on."""
        self._done += 1
        self.count(self._done, self._slides)
        style = STYLES[outcome.status]
        line = f"{escape(outcome.slide_id)}: [{style}]{escape(outcome.message)}[/]"
        if outcome.status == "done" and self._results:
            stdout.print(line)
        else:
            console = stderr if outcome.status == "done" else errors
            console.print(rf"\[{self._done}/{self._slides}]", line)
        return outcome


def _duration(seconds: float) -> str:
    """A time that a person reads at a glance: 4.2 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class TrainingProgress(_Bar):
    """Progress over trainings: a bar on a terminal, a line for each that is done otherwise."""

    def __init__(self, trainings: int) -> None:
        super().__init__(
            TextColumn("trainings"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %, loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            loss="",
        )
        self._trainings = trainings

    def epoch(self, done: "EpochDone") -> None:
        """Show that an epoch of one of the trainings is done."""
        total = self._trainings * done.epochs
        self._bar.update(self._task, advance=1, total=total, loss=f"{done.loss:.3f}")
        if done.epoch == done.epochs and not stderr.is_terminal:
            fold = "" if done.fold is None else f", fold {done.fold}"
            say(f"seed {done.seed}{fold}: {done.epochs} epochs, loss {done.loss:.3f}")


class DemoProgress(_Bar):
    """Progress over the demo: a line a stage, and on a terminal a bar below."""

    def __init__(self) -> None:
        super().__init__(BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())

    def stage(self, name: str, what: str) -> None:
        """Show that a stage begins."""
        say(f"{name:8} {what}")
        self._bar.reset(self._task, total=None)

    def progress(self, done: int, total: int) -> None:
        """Show how far the stage is."""
        self._bar.update(self._task, completed=done, total=total)


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
