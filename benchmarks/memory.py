"""How much memory `sagdeploy predict` needs, by the size of the slide.

    python benchmarks/memory.py --out memory.json [--extractor stain_texture] [--sides 5000 20000]

Counted is the whole tree of processes, the one that decodes the slide included, pages that
several of them share divided among them. Slides are painted squares of 4096 px, repeated, and
the weights are random.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import Figure, as_text
from large_slide import write_large
from machine import resident, tree
from random_model import publish_random

SAMPLE_S = 0.1
MIB = 1 << 20
TARGET_MIB, TARGET_GROWTH, TILE_BYTES = 1536, 1.1, 4
"""At most so much, and so much more for the largest slide than for the smallest, beside some
bytes a tile."""


@dataclass(frozen=True, slots=True)
class Peak:
    """What one slide took at most."""

    side_px: int
    tiles: int
    seconds: float
    tree_mib: float
    parts_mib: dict[str, float]
    """Of each kind of process, at the same time."""


def measure(slide: Path, repository: Path, out: Path, side_px: int) -> Peak:
    """Diagnose a slide by the command line, and watch."""
    begun, most, parts = time.perf_counter(), 0.0, dict[str, float]()
    command = [sys.executable, "-m", "sagdeploy", "predict", str(slide)]
    command += ["--repository", str(repository), "--out", str(out)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        while process.poll() is None:
            now = _by_part(process.pid)
            if sum(now.values()) > most:
                most, parts = sum(now.values()), now
            time.sleep(SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"predict failed with {process.returncode}")
    record = json.loads((out / slide.stem / "prediction.json").read_text())
    return Peak(side_px, record["counts"]["tiles"], time.perf_counter() - begun, most, parts)


def _by_part(root: int) -> dict[str, float]:
    """MiB of the command, of the nursery of decoders, of the decoder."""
    names = {0: "predict", 1: "nursery", 2: "decoder"}
    parts = dict[str, float]()
    for depth, pid in enumerate(tree(root)):
        try:
            parts[names.get(depth, "others")] = resident(pid) + parts.get("others", 0)
        except OSError:  # it has just ended
            continue
    return parts


def show(peak: Peak) -> None:
    """Print a row."""
    parts = ", ".join(f"{name} {mib:.0f}" for name, mib in peak.parts_mib.items())
    print(
        f"{peak.side_px:>9,}{peak.tiles:>8,}{peak.seconds:>9.0f}{peak.tree_mib:>11.0f}  {parts}",
        flush=True,
    )


def figures(peaks: Sequence[Peak]) -> list[Figure]:
    """What has a target."""
    first, last = peaks[0], peaks[-1]
    allowed = TILE_BYTES * (last.tiles - first.tiles) / MIB
    growth = (last.tree_mib - allowed) / first.tree_mib
    most = max(peak.tree_mib for peak in peaks)
    return [
        Figure("P9 most memory, MiB", most, TARGET_MIB, at_most=True),
        Figure("P9 growth over the sizes", growth, TARGET_GROWTH, at_most=True),
    ]


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--extractor", default="mobilenet_v2", help="one of the trained names")
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 20_000, 60_000])
    parser.add_argument("--out", type=Path, default=Path("memory.json"))
    options = parser.parse_args()
    peaks = []
    print(f"{'side, px':>9}{'tiles':>8}{'seconds':>9}{'tree, MiB':>11}  of it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with multiprocessing.get_context("spawn").Pool(1) as apart:  # PyTorch stays over there
            arguments = {"extractor": options.extractor, "tile_px": 224}
            apart.apply(publish_random, (folder / "models" / "repository", "sag"), arguments)
        for side_px in options.sides:
            slide = folder / f"slide-{side_px}.tif"
            write_large(slide, (side_px, side_px))
            out = folder / f"out-{side_px}"
            peaks.append(measure(slide, folder / "models" / "repository", out, side_px))
            show(peaks[-1])
    reached = figures(peaks)
    print("\n" + as_text(reached))
    facts = {"cores": os.cpu_count(), "extractor": options.extractor}
    rows = [asdict(peak) for peak in peaks]
    options.out.write_text(
        json.dumps(
            facts | {"peaks": rows, "figures": [asdict(figure) for figure in reached]}, indent=2
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
