"""Where the time of a slide goes, how near the limit it is, and how far ahead of a plain loop.

    python benchmarks/slide.py --out slide.json [--extractor mobilenet_v2] [--real SLIDE.svs]

Slides are a painted square, repeated to 20,000 px, at 0.5 and at 0.25 um/px, of which tiles are
the halves, and a real one. The weights are random. Ways to do the same tiles alternate inside
each round, none of them decoded before; of all rounds those count in which other programs took
least of the machine. A target that is missed is marked.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from eager import Eager
from figures import Figure, as_text
from large_slide import write_large
from random_model import publish_random
from report import make_prediction
from rounds import DEVICE_TILES, MODEL, MODEL_INT8, figures, measure, timed

from sagdeploy.manifest import diagnosis_name, extractor_name
from sagdeploy.pipeline.flow import Flow
from sagdeploy.pipeline.stream import (
    Infer,
    all_tiles,
    cores,
    extractor_of,
    stream_features,
)
from sagdeploy.report.folder import write_results
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.cutting import tiles_of
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.slides.tissue import find_tissue

SIDE_PX, TILE_PX = 20_000, 224
TILES = {"mobilenet_v2": 384, "resnet18_instancenorm": 192}
"""Of a measurement, enough for seconds."""

SCALES = (0.5, 0.25)
"""Microns per pixel of the painted slides; tiles are read at the first."""

REPORT_TILES = 5000
PAINTED = (1504, 1104)
"""Size of the ten small slides."""

CALIBRATION_TILES = 64


@dataclass(frozen=True, slots=True)
class Result:
    """All that was measured with one extractor."""

    extractor: str
    slide: str
    tiles: int
    """Of a measurement."""

    others: float
    """Share of the machine that other programs took."""

    tiles_per_s: dict[str, float]
    bound: str | None
    figures: tuple[Figure, ...]
    phases_s: dict[str, float]
    commands_s: dict[str, float]


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
        took["tissue"] = timed(lambda: find_tissue(opened, opened.resolve_mpp().value))
        took["tiles"] = REPORT_TILES / tiles_per_s
        head = diagnosis_name(MODEL)
        engine.infer(head, {"features": features[:10]})
        took["head"] = timed(lambda: engine.infer(head, {"features": features}))
        columns = SIDE_PX // TILE_PX
        prediction = make_prediction(REPORT_TILES, opened.size_l0, columns)
        with tempfile.TemporaryDirectory() as out:
            took["results"] = timed(lambda: write_results(prediction, opened, Path(out) / "a"))
    share = (took["head"] + took["results"]) / sum(took.values())
    return took, Figure("P7 head and results", share, 0.03, at_most=True)


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
        return timed(lambda: subprocess.run(command, check=True, capture_output=True))

    for path in [*slides.iterdir(), *repository.rglob("*.onnx")]:
        _forget(path)
    took = {"one, from a cold disk": predict(slides / "0.tif", "first")}
    took["one, again"] = predict(slides / "0.tif", "again")
    took["ten"] = predict(slides, "ten")
    return took


def _forget(path: Path) -> None:
    """Drop a file from the kernel's cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _plan(slide: Slide) -> Tiles:
    mpp = slide.resolve_mpp().value
    (tiles,) = tiles_of(slide, find_tissue(slide, mpp), TilePlan(tile_px=TILE_PX), mpp=mpp)
    return tiles


def publish(repository: Path, extractor: str, slide: Slide, plan: Tiles) -> dict[str, Infer]:
    """The extractor in float32 and in int8, calibrated on tiles from all over the slide."""
    spread = np.linspace(0, len(plan) - 1, min(CALIBRATION_TILES, len(plan))).astype(int)
    with all_tiles(slide, replace(plan, xy_l0=plan.xy_l0[spread])) as tiles:
        calibrations = {MODEL: None, MODEL_INT8: tiles.copy()}
    with multiprocessing.get_context("spawn").Pool(1) as apart:  # PyTorch stays over there
        for model, calibration in calibrations.items():
            names = {"extractor": extractor, "tile_px": TILE_PX, "calibration": calibration}
            apart.apply(publish_random, (repository, model), names)
    engine = LocalEngine(repository)
    features = engine.manifest(MODEL).extractor.features
    return {model: extractor_of(engine, extractor_name(model), features) for model in calibrations}


def run(extractor: str, path: Path, options: argparse.Namespace, scratch: Path) -> Result:
    """All measurements of one slide with one extractor."""
    repository = scratch / "models" / "repository"
    with open_slide(path) as slide:
        plan = _plan(slide)
        infers = publish(repository, extractor, slide, plan)
    count = min(TILES[extractor], len(plan))
    with Eager(extractor, path, threads=cores()) as eager:
        rounds = measure(path, plan, count, infers, eager, options.rounds)
    flow = Flow()
    with open_isolated(path) as slide:
        some = replace(plan, xy_l0=plan.xy_l0[:count])
        stream_features(slide, some, infers[MODEL], flow=flow)
    kept = sorted(rounds, key=lambda each: each[1])[: options.kept]
    rows = [each for each, _ in kept]
    speed = {way: statistics.median(1 / row[way] for row in rows) for way in rows[0]}
    took, p7 = phases(repository, path, speed["isolated"])
    return Result(
        extractor=extractor,
        slide=path.stem,
        tiles=count,
        others=statistics.median(others for _, others in kept),
        tiles_per_s=speed,
        bound=flow.bound,
        figures=(*figures(extractor, rows), p7),
        phases_s=took,
        commands_s=commands(repository, scratch),
    )


def show(result: Result) -> None:
    """Print one extractor's tables."""
    print(f"\n{result.extractor}, {result.slide}, {result.tiles} tiles, {result.bound};", end=" ")
    print(f"other programs took {result.others:.0%} of the machine")
    for way, speed in result.tiles_per_s.items():
        print(f"  {way:<44}{speed:>9.0f} tiles/s")
    if not any(way.startswith("device") for way in result.tiles_per_s):
        print(f"  no simulated device: of fewer than {DEVICE_TILES} tiles the first batch counts")
    print(as_text(result.figures))
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
    parser.add_argument("--real", type=Path, help="a real slide")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kept", type=int, default=5, help="rounds that count, the quietest")
    parser.add_argument("--out", type=Path, default=Path("slide.json"))
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        slides = [Path(folder) / f"painted-{mpp:g}-um.tif" for mpp in SCALES]
        for slide, mpp in zip(slides, SCALES, strict=True):
            write_large(slide, (SIDE_PX, SIDE_PX), mpp=mpp)
        slides += [options.real] if options.real else []
        for slide, extractor in itertools.product(slides, options.extractor):
            with tempfile.TemporaryDirectory() as scratch:
                results.append(run(extractor, slide, options, Path(scratch)))
                show(results[-1])
    facts = {"cores": os.cpu_count(), "side_px": SIDE_PX, "tile_px": TILE_PX}
    told = facts | {
        "results": [asdict(result) for result in results],
        "figures": [
            asdict(replace(figure, name=f"{figure.name}, {result.extractor}, {result.slide}"))
            for result in results
            for figure in result.figures
        ],
    }
    options.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
