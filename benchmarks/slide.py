"""Where the time of a slide goes, how near the limit it is, and how far ahead of a plain loop.

    python benchmarks/slide.py --out slide.json [--extractor mobilenet_v2]

The slide is a painted square, repeated to 20,000 px, and the weights are random. Ways to do the
same tiles alternate inside each round; of all rounds those count in which other programs took
least of the machine. A target that is missed is marked; the letters are those of the figures
that the project has set itself.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from eager import Eager
from large_slide import write_large
from machine import watched
from random_model import publish_random
from report import make_prediction
from stand_ins import Held, device, nothing

from sagdeploy.manifest import diagnosis_name, extractor_name
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.stream import Infer, TileReader, cores, extractor_of, stream_features
from sagdeploy.report.folder import write_results
from sagdeploy.serving.engine import ON_CORES, Pace
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from sagdeploy.slides.tiling import TilePlan, Tiles, plan_tiles
from sagdeploy.slides.tissue import find_tissue

SIDE_PX, TILE_PX, MODEL = 20_000, 224, "sag"
TILES = {"mobilenet_v2": 512, "resnet18_instancenorm": 192}
"""Of a measurement, enough for seconds."""

REPORT_TILES = 5000
PAINTED = (1504, 1104)
"""Size of the ten small slides."""

EAGER = {"mobilenet_v2": 7.0, "resnet18_instancenorm": 1.7}
"""P1: how many times as fast as the plain loop."""

DEVICE = Pace(batch_tiles=16, in_flight=1)
PACES = (0.5, 1.0, 4.0)
"""Of the simulated device, as a multiple of the reader's."""

Round = dict[str, float]
"""Seconds by way."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One ratio, and what it is to be."""

    what: str
    value: float
    spread: tuple[float, float]
    target: float
    at_most: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the target is."""
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(frozen=True, slots=True)
class Result:
    """All that was measured with one extractor."""

    extractor: str
    tiles: int
    """Of a measurement."""

    others: float
    """Share of the machine that other programs took."""

    tiles_per_s: dict[str, float]
    bound: str | None
    figures: tuple[Figure, ...]
    phases_s: dict[str, float]
    commands_s: dict[str, float]


def measure(
    slides: dict[str, Slide], tiles: Tiles, infer: Infer, eager: Eager, rounds: int
) -> list[tuple[Round, float]]:
    """Rounds, each with the share of the machine that other programs took."""
    near, far = slides["near"], slides["isolated"]

    def stream(slide: TileReader, extractor: Infer, pace: Pace = ON_CORES) -> Callable[[], object]:
        return lambda: stream_features(slide, tiles, extractor, pace=pace)

    ways = {
        "read": stream(far, nothing),
        "infer": stream(Held(), infer),
        "isolated": stream(far, infer),
        "in process": stream(near, infer),
        "plain loop": lambda: eager.run(tiles),
    }
    measured = []
    for number in range(rounds + 1):
        took: Round = {}
        with watched(eager.pid) as usage:
            for name, work in ways.items():
                took[name] = _seconds(work)
            for pace in PACES:
                rate = pace * len(tiles) / took["read"]
                took[f"device {pace:g}"] = _seconds(stream(far, device(rate), DEVICE))
        if number:  # the first one warms up
            measured.append((took, usage.others))
    return measured


def figures(extractor: str, rounds: Sequence[Round]) -> Iterator[Figure]:
    """What the rounds come to."""

    def ratio(what: str, of: Callable[[Round], float], target: float) -> Figure:
        values = sorted(map(of, rounds))
        return Figure(what, statistics.median(values), (values[0], values[-1]), target)

    yield ratio(
        "P1 plain loop / pipeline", lambda r: r["plain loop"] / r["isolated"], EAGER[extractor]
    )
    yield ratio("P3 of the CPU bound", lambda r: (r["read"] + r["infer"]) / r["isolated"], 0.95)
    for pace in PACES:
        yield ratio(
            f"P3 of max(read, device), device {pace:g} x",
            lambda r, p=pace: max(r["read"], r["read"] / p) / r[f"device {p:g}"],  # type: ignore[misc]
            0.90,
        )
    yield ratio("P10 isolated against in process", lambda r: r["in process"] / r["isolated"], 0.95)


def phases(repository: Path, slide: Path, tiles_per_s: float) -> tuple[dict[str, float], Figure]:
    """Seconds of each part of a slide with 5,000 tiles, and P7."""
    engine, took = LocalEngine(repository), {}
    manifest = engine.manifest(MODEL)
    features = np.random.default_rng(0).random(
        (REPORT_TILES, manifest.extractor.features), np.float32
    )
    begun = time.perf_counter()
    with open_isolated(slide) as opened:
        took["open"] = time.perf_counter() - begun
        took["tissue"] = _seconds(lambda: find_tissue(opened))
        took["tiles"] = REPORT_TILES / tiles_per_s
        head = diagnosis_name(MODEL)
        engine.infer(head, {"features": features[:10]})
        took["head"] = _seconds(lambda: engine.infer(head, {"features": features}))
        columns = SIDE_PX // TILE_PX
        prediction = make_prediction(REPORT_TILES, opened.size_l0, columns)
        with tempfile.TemporaryDirectory() as out:
            took["results"] = _seconds(lambda: write_results(prediction, opened, Path(out) / "a"))
    share = (took["head"] + took["results"]) / sum(took.values())
    return took, Figure("P7 head and results", share, (share, share), 0.03, at_most=True)


def commands(repository: Path, scratch: Path) -> dict[str, float]:
    """Seconds of `sagdeploy predict` as a command: one small slide, and ten."""
    slides = scratch / "slides"
    slides.mkdir()
    for number in range(10):
        path = slides / f"{number}.tif"
        paint_slide(path, SlideSpec(seed=number, size_l0=PAINTED))

    def predict(given: Path, out: str) -> float:
        command = [sys.executable, "-m", "sagdeploy", "predict", str(given), "--out"]
        command += [str(scratch / out), "--repository", str(repository)]
        return _seconds(lambda: subprocess.run(command, check=True, capture_output=True))

    took = {"one, first": predict(slides / "0.tif", "first")}
    took["one, again"] = predict(slides / "0.tif", "again")
    took["ten"] = predict(slides, "ten")
    return took


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _plan(slide: Slide) -> Tiles:
    (tiles,) = plan_tiles(
        TilePlan(tile_px=TILE_PX),
        size_l0=slide.size_l0,
        bounds_l0=slide.bounds_l0,
        slide_mpp=slide.resolve_mpp().value,
        mask=find_tissue(slide).mask,
        name=slide.name,
    )
    return tiles


def run(extractor: str, options: argparse.Namespace, scratch: Path) -> Result:
    """All measurements with one extractor."""
    repository, path = scratch / extractor / "repository", scratch / "slide.tif"
    with multiprocessing.get_context("spawn").Pool(1) as apart:  # PyTorch stays over there
        names = {"extractor": extractor, "tile_px": TILE_PX}
        apart.apply(publish_random, (repository, MODEL), names)
    engine = LocalEngine(repository)
    features = engine.manifest(MODEL).extractor.features
    infer = extractor_of(engine, extractor_name(MODEL), features)
    with ExitStack() as opened:
        slides = {
            "near": opened.enter_context(open_slide(path)),
            "isolated": opened.enter_context(open_isolated(path)),
        }
        eager = opened.enter_context(Eager(extractor, path, threads=cores()))
        plan = _plan(slides["near"])
        count = options.tiles or TILES[extractor]
        tiles = Tiles(plan.xy_l0[:count], plan.size_l0, plan.size_px, plan.mpp)
        rounds = measure(slides, tiles, infer, eager, options.rounds)
        flow = Flow()
        stream_features(slides["isolated"], tiles, infer, flow=flow)
    kept = sorted(rounds, key=lambda each: each[1])[: options.kept]
    rows = [each for each, _ in kept]
    speed = {way: statistics.median(count / row[way] for row in rows) for way in rows[0]}
    took, p7 = phases(repository, path, speed["isolated"])
    return Result(
        extractor=extractor,
        tiles=count,
        others=statistics.median(others for _, others in kept),
        tiles_per_s=speed,
        bound=flow.bound,
        figures=(*figures(extractor, rows), p7),
        phases_s=took,
        commands_s=commands(repository, repository.parent),
    )


def show(result: Result) -> None:
    """Print one extractor's tables."""
    print(f"\n{result.extractor}, {result.tiles} tiles, {result.bound};", end=" ")
    print(f"other programs took {result.others:.0%} of the machine")
    for way, speed in result.tiles_per_s.items():
        print(f"  {way:<44}{speed:>9.0f} tiles/s")
    for figure in result.figures:
        sign = "at most" if figure.at_most else "at least"
        missed = "" if figure.is_reached else "  MISSED"
        low, high = figure.spread
        print(
            f"  {figure.what:<44}{figure.value:>9.3f}  {low:.3f} to {high:.3f}"
            f"  {sign} {figure.target:g}{missed}"
        )
    whole = sum(result.phases_s.values())
    print(f"  a slide of {REPORT_TILES:,} tiles, seconds and share:")
    for part, seconds in result.phases_s.items():
        print(f"    {part:<42}{seconds:>9.2f}  {seconds / whole:.1%}")
    print("  the command, on small slides, seconds:")
    for name, seconds in result.commands_s.items():
        print(f"    {name:<42}{seconds:>9.2f}")


def main() -> None:
    """Measure, show, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--extractor", nargs="+", choices=TILES, default=list(TILES))
    parser.add_argument("--tiles", type=int, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kept", type=int, default=5, help="rounds that count, the quietest")
    parser.add_argument("--out", type=Path, default=Path("slide.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_large(Path(scratch) / "slide.tif", (SIDE_PX, SIDE_PX))
        results = []
        for extractor in options.extractor:
            results.append(run(extractor, options, Path(scratch)))
            show(results[-1])
    facts = {"cores": os.cpu_count(), "side_px": SIDE_PX, "tile_px": TILE_PX}
    told = facts | {"results": [asdict(result) for result in results]}
    options.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
