"""How long the command line takes to begin: help, imports, and the first tiles of a slide.

    python benchmarks/startup.py --out startup.json

Everything runs in fresh interpreters, which alternate; ratios are of their CPU seconds, which
other programs touch least. The first tiles are those of a small painted slide on the way into
an extractor with random weights, counted from the start of the process.
"""

import argparse
import ast
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import Figure, as_markdown
from random_model import publish_random

from sagdeploy.cli import serving
from sagdeploy.slides.synthetic import SlideSpec, paint_slide

MODEL = "sag"
SLIDE = SlideSpec(seed=3, size_l0=(1504, 1104))
HELP = "import sys\nfrom sagdeploy.cli.app import run\nsys.exit(run(['--help']))"
LOCAL = "from sagdeploy.serving.local import LocalEngine"
FIRST_TILES = """
import sys, time
from sagdeploy.cli.app import run
from sagdeploy.serving.local import LocalEngine
infer = LocalEngine.infer
def told(*arguments, **keywords):
    LocalEngine.infer = infer
    print("first tiles", time.time(), file=sys.stderr)
    return infer(*arguments, **keywords)
LocalEngine.infer = told
sys.exit(run({arguments!r}))
"""
TARGETS = {
    "help": ("import typer", 2.0),
    "imports of predict": ("import torch", 0.25),
}
"""What is held against what, and the ratio that it is to have at most."""


@dataclass(frozen=True, slots=True)
class Start:
    """One interpreter, medians over rounds."""

    name: str
    seconds: float
    spread: tuple[float, float]
    cpu_s: float


Took = dict[str, tuple[float, float]]
"""Seconds and CPU seconds by name."""


def imports_of_predict() -> str:
    """What the command imports when it is called, for an engine in its process."""
    tree = ast.parse(Path(serving.__file__).read_text())
    (predict,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "predict"
    )
    own = [ast.unparse(node) for node in predict.body if isinstance(node, ast.ImportFrom)]
    return "\n".join(["from sagdeploy.cli.app import run", *own, LOCAL])


def measure(rounds: int, scratch: Path) -> list[Took]:
    """Every interpreter in turn, `rounds` times after one that fills the disk's cache."""
    slide, models = str(scratch / "slide.tif"), str(scratch / "models")
    codes = {
        "nothing": "",
        "import typer": "import typer",
        "help": HELP,
        "imports of predict": imports_of_predict(),
        "import torch": "import torch",
    }
    measured = []
    for number in range(rounds + 1):
        arguments = ["predict", slide, "--repository", models, "--out", str(scratch / f"{number}")]
        took = {name: _timed(code)[:2] for name, code in codes.items()}
        seconds, cpu_s, first = _timed(FIRST_TILES.format(arguments=arguments))
        measured.append(took | {"first tiles": (first, cpu_s), "the whole slide": (seconds, cpu_s)})
    return measured[1:]


def summarise(rounds: list[Took]) -> Iterator[Start]:
    """Medians over rounds."""
    for name in rounds[0]:
        seconds = sorted(each[name][0] for each in rounds)
        cpu_s = statistics.median(each[name][1] for each in rounds)
        yield Start(name, statistics.median(seconds), (seconds[0], seconds[-1]), cpu_s)


def figures(rounds: list[Took]) -> Iterator[Figure]:
    """What has a target."""
    for name, (base, target) in TARGETS.items():
        ratios = sorted(each[name][1] / each[base][1] for each in rounds)
        median, spread = statistics.median(ratios), (ratios[0], ratios[-1])
        yield Figure(f"P13 {name} / {base}", median, target, at_most=True, spread=spread)


def show(starts: list[Start], reached: list[Figure]) -> None:
    """Print the tables."""
    print("| interpreter | seconds | spread | CPU seconds |\n|---|---|---|---|")
    for each in starts:
        low, high = each.spread
        print(f"| {each.name} | {each.seconds:.3f} | {low:.3f} to {high:.3f} | {each.cpu_s:.3f} |")
    print("\n" + as_markdown(reached))


def _timed(code: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and seconds to the first tiles if there are any, of an interpreter."""
    before, begun = _cpu_of_children(), time.time()
    ran = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    seconds, cpu_s = time.time() - begun, _cpu_of_children() - before
    told = [line.split()[-1] for line in ran.stderr.splitlines() if line.startswith("first tiles")]
    return seconds, cpu_s, float(told[0]) - begun if told else seconds


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Measure, show, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--extractor", default="mobilenet_v2", help="one of the trained names")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("startup.json"))
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        paint_slide(scratch / "slide.tif", SLIDE)
        with multiprocessing.get_context("spawn").Pool(1) as apart:  # PyTorch stays over there
            names = {"extractor": options.extractor, "tile_px": 224}
            apart.apply(publish_random, (scratch / "models", MODEL), names)
        rounds = measure(options.rounds, scratch)
    starts, reached = list(summarise(rounds)), list(figures(rounds))
    show(starts, reached)
    found = {"starts": [asdict(s) for s in starts], "figures": [asdict(f) for f in reached]}
    options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
