"""Training against the paper's public code: a step, all seeds of an arm, and memory.

    python benchmarks/training.py --out training.json

A step is everything between two batches: padding, model, losses, gradients, optimiser, and
what is kept of it. It is held against `benchmarks/original.py`, the public code's step written
anew for this, on the same batches, in CPU time of one thread, the two alternating; first it is
made sure that both give the same loss where they should. Then 15 seeds of an arm by one command
are held against 15 commands of one seed each. Last, what a process takes to train on 1,225 tiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import original
import torch
from cases import CLASSES, Case
from figures import Figure, as_markdown

from sagdeploy.config import RECIPES
from sagdeploy.training.batch import BagBatch, collate
from sagdeploy.training.dataset import Bags
from sagdeploy.training.state import new_state
from sagdeploy.training.train import SeedTask, train_epoch
from tests.peak import peak_mib, restart_peak

SEEDS = 15
TOLERANCE = 1e-5
MEMORY_CASE = "--memory-of-1225-tiles"

ABMIL = Case("ABMIL, 15,000 tiles of 512", "camelyon16-abmil", (15_000,), 512, 1)
SCATNET = Case("ScAtNet, 25 + 49 + 81 tiles, 16 slides", "melanoma-scatnet", (25, 49, 81), 1280, 16)
LARGE = Case("ScAtNet, 1,225 tiles, 8 slides", "camelyon16-scatnet", (1225,), 512, 8)
STEPS_AN_EPOCH = 4
STEPS = (
    ABMIL,
    Case("ABMIL, 15,000 tiles of 1280", "camelyon16-abmil", (15_000,), 1280, 1),
    Case("ScAtNet, 49 tiles, 16 slides", "melanoma-scatnet", (49,), 1280, 16),
    SCATNET,
    Case("ScAtNet, 1,225 tiles, 1 slide", "camelyon16-scatnet", (1225,), 512, 1),
)
"""What reference.md lists the original's milliseconds of."""

STEP_TARGETS = {ABMIL.name: 1.2, SCATNET.name: 1.2}
ARM_TARGETS = {"ABMIL, 1,500 tiles of 512": 1.3, SCATNET.name: 2.0}
MEMORY_MIB = 4096
"""Of LARGE, at most."""

ARMS = {
    Case("ABMIL, 1,500 tiles of 512", "camelyon16-abmil", (1500,), 512, 1): 32,
    SCATNET: 48,
}
"""Of which all seeds are trained, and on how many slides."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step takes."""

    case: str
    ours_ms: float
    original_ms: float
    ratio: float
    """How often ours fits into the original's in the same round; the median."""

    spread: tuple[float, float]
    """Of the ratio over the rounds."""


@dataclass(frozen=True, slots=True)
class ArmTime:
    """How long all seeds of an arm take."""

    case: str
    together_s: float
    singly_s: float
    """SEEDS times one seed by itself."""

    ratio: float


def time_step(case: Case, rounds: int) -> StepTime:
    """A step of ours and of the original's, alternating epochs of few steps."""
    with TemporaryDirectory() as scratch:
        bags = case.open(Path(scratch), STEPS_AN_EPOCH * case.batch)
        check_equal(case, bags)
        task = SeedTask(Path(scratch), case.settings(), len(CLASSES), bags, None, seed=0)
        state = new_state(task.settings, bags, classes=len(CLASSES), seed=0)
        step, batches = originally(case, dropout=0.2), batches_of(bags, case.batch)
        ways: tuple[Callable[[], object], ...] = (
            lambda: train_epoch(state, task),
            lambda: [step(batch) for batch in batches],
        )
        for way in ways:
            way()
        times = [[seconds(way, time.thread_time) for way in ways] for _ in range(rounds)]
    ratios = [theirs / ours for ours, theirs in times]
    medians = [
        1000 / STEPS_AN_EPOCH * statistics.median(column) for column in zip(*times, strict=True)
    ]
    spread = (min(ratios), max(ratios))
    return StepTime(case.name, medians[0], medians[1], statistics.median(ratios), spread)


def originally(case: Case, dropout: float) -> original.Step:
    """The original's model and optimiser."""
    if "abmil" in case.recipe:
        return original.Step(original.Abmil(case.features, len(CLASSES)), original.ABMIL_ADAM)
    model = original.ScAtNet(case.features, len(CLASSES), len(case.tiles), dropout)
    return original.Step(model, original.SCATNET_ADAM)


def batches_of(bags: Bags, size: int) -> list[original.Batch]:
    """The bags in batches of the original's."""
    starts = range(0, len(bags), size)
    return [as_original(collate([bags[i] for i in range(s, s + size)])) for s in starts]


def as_original(batch: BagBatch) -> original.Batch:
    """A batch of ours as one of the original's."""
    labels = torch.nn.functional.one_hot(batch.labels, len(CLASSES)).float()
    guides = batch.heuristic_guidance, batch.tissue_guidance
    return original.Batch(batch.features, *guides, labels)


def check_equal(case: Case, bags: Bags) -> None:
    """Stop unless the original's losses are ours with compat = "reference" and no dropout."""
    settings = case.settings(compat="reference")
    options = {"compat": "reference", "dropout": 0.0} if "scatnet" in case.recipe else {}
    model = settings.model.model_copy(update={"options": settings.model.options | options})
    settings = settings.model_copy(update={"model": model, "class_loss": "bce"})
    state = new_state(settings, bags, classes=len(CLASSES), seed=0)
    step, ours = originally(case, dropout=0.0), collate([bags[i] for i in range(case.batch)])
    step.model.load_state_dict(state.model.state_dict())
    batch = as_original(ours)
    parts = state.loss(
        state.model(ours.features, ours.is_tile),
        batch.labels,
        ours.is_tile,
        heuristic_guidance=ours.heuristic_guidance,
        tissue_guidance=ours.tissue_guidance,
    )
    losses = torch.stack([parts.classification, parts.hg, parts.tg])
    torch.testing.assert_close(losses, step.losses(batch).detach(), rtol=TOLERANCE, atol=TOLERANCE)


def time_arm(case: Case, slides: int, *, epochs: int, rounds: int) -> ArmTime:
    """All seeds of an arm by one command, and one seed by another, alternating."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        case.write(folder, slides)
        config = folder / "settings.toml"
        recipe = (RECIPES / f"{case.recipe}.toml").read_text()
        config.write_text(
            recipe.replace('select_by = "loss"', 'select_by = "last"').replace(
                "validation_share = 0.2", "validation_share = 0.0"
            )
        )
        times = [
            [train(folder, f"{seeds}-{index}", seeds, epochs) for seeds in (SEEDS, 1)]
            for index in range(rounds)
        ]
    together, single = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(SEEDS * one / every for every, one in times)
    return ArmTime(case.name, together, SEEDS * single, ratio)


def train(folder: Path, run: str, seeds: int, epochs: int) -> float:
    """Seconds that `sagdeploy train` takes."""
    command = [sys.executable, "-m", "sagdeploy", "train", str(folder / "cohort.csv")]
    command += ["--bags", str(folder / "bags"), "--out", str(folder / run)]
    command += ["--config", str(folder / "settings.toml"), "--seeds", str(seeds)]
    command += ["--epochs", str(epochs)]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def seconds(way: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a call takes."""
    begun = clock()
    way()
    return clock() - begun


def memory_of(case: Case) -> float:
    """MiB that training on a case adds to a process of its own."""
    command = [sys.executable, __file__, MEMORY_CASE]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(case: Case) -> float:
    """The same, in this process."""
    with TemporaryDirectory() as scratch:
        bags = case.open(Path(scratch), case.batch)
        task = SeedTask(Path(scratch), case.settings(), len(CLASSES), bags, None, seed=0)
        state = new_state(task.settings, bags, classes=len(CLASSES), seed=0)
        before = restart_peak()
        for _ in range(2):
            train_epoch(state, task)
        return peak_mib() - before


def tables(steps: Sequence[StepTime], arms: Sequence[ArmTime], memory: float) -> str:
    """What was found, as markdown."""
    lines = [
        "| a step, CPU time of one thread | ours, ms | original, ms | original / ours | spread |",
        "|---|---|---|---|---|",
        *(
            f"| {s.case} | {s.ours_ms:.0f} | {s.original_ms:.0f} | {s.ratio:.2f} | "
            f"{s.spread[0]:.2f} to {s.spread[1]:.2f} |"
            for s in steps
        ),
        "",
        f"| {SEEDS} seeds | by one command, s | by {SEEDS} commands, s | ratio |",
        "|---|---|---|---|",
        *(f"| {a.case} | {a.together_s:.0f} | {a.singly_s:.0f} | {a.ratio:.2f} |" for a in arms),
        "",
        f"{LARGE.name}, 4 layers: {memory:,.0f} MiB above an idle process.",
    ]
    return "\n".join(lines)


def figures(steps: Sequence[StepTime], arms: Sequence[ArmTime], memory: float) -> Iterator[Figure]:
    """What has a target."""
    for step in steps:
        if step.case in STEP_TARGETS:
            name, target = f"P12 step, {step.case}, original / ours", STEP_TARGETS[step.case]
            yield Figure(name, step.ratio, target, spread=step.spread)
    for arm in arms:
        yield Figure(f"P12 {SEEDS} seeds, {arm.case}", arm.ratio, ARM_TARGETS[arm.case])
    yield Figure(f"memory of {LARGE.name}, MiB", memory, MEMORY_MIB, at_most=True)


def main() -> None:
    """Print the tables, and write them as JSON where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arm-rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of each seed of an arm")
    parser.add_argument("--out", type=Path)
    parser.add_argument(MEMORY_CASE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of_1225_tiles:
        print(measure_memory(LARGE))
        return
    steps = [time_step(case, options.rounds) for case in STEPS]
    arms = [
        time_arm(case, slides, epochs=options.epochs, rounds=options.arm_rounds)
        for case, slides in ARMS.items()
    ]
    memory = memory_of(LARGE)
    reached = list(figures(steps, arms, memory))
    print(tables(steps, arms, memory), as_markdown(reached), sep="\n\n")
    if options.out:
        found = {
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "steps": [asdict(step) for step in steps],
            "arms": [asdict(arm) for arm in arms],
            "memory_mib": memory,
            "figures": [asdict(figure) for figure in reached],
        }
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
