"""How far a command is: a bar on a terminal, lines elsewhere, both on stderr."""

import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from sagdeploy.cli.output import STYLES, errors, say, stderr, stdout
from sagdeploy.pipeline.outcome import SlideOutcome

if TYPE_CHECKING:  # it imports torch, which a client need not have
    from sagdeploy.training.train import EpochDone


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

    def __exit__(self, error: object, *_: object) -> None:
        self._bar.stop()
        if error is None:
            self._conclude()

    def _conclude(self) -> None:
        """Say what there is to say once all is done."""


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
        self._bounds = Counter[str]()
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def _conclude(self) -> None:
        if self._done:
            tiles = f", {self._rate()}" if self._tiles else ""
            slides = "1 slide" if self._done == 1 else f"{self._done:,} slides"
            took = _duration(time.monotonic() - self._begun)
            say(f"{slides} in {took}{tiles}{self._bound()}")

    def tiles(self, count: int) -> None:
        """Count tiles that were done, from any thread."""
        with self._lock:
            self._tiles += count
            self._bar.update(self._task, rate=self._rate())

    def _bound(self) -> str:
        """What most slides were bound by, which is where more machine would help."""
        (name, count), *_ = self._bounds.most_common(1) or [("", 0)]
        most = f" ({count:,} of {self._done:,})" if self._done > 1 else ""
        return f", {name}{most}" if name else ""

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-3)
        return f"{self._tiles:,} tiles, {self._tiles / seconds:,.0f} a second"

    def count(self, done: int, slides: int) -> None:
        """Show that `done` of `slides` are done."""
        self._bar.update(self._task, completed=done, total=slides)

    def slide(self, outcome: SlideOutcome) -> SlideOutcome:
        """Show how a slide ended, and hand it on."""
        self._done += 1
        if outcome.bound:
            self._bounds[outcome.bound if self._slides == 1 else outcome.bound.split()[0]] += 1
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
