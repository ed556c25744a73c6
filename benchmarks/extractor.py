"""Extractors in ONNX Runtime against the machine's own limit, in int8, and against PyTorch.

    python benchmarks/extractor.py --out extractor.json

The limit is a product of two float32 matrices in the same process. All ways alternate inside
each round; of all rounds those count in which other programs took least of the machine. Figures
with a target are of one thread, and of its CPU seconds, which others touch least. Speed
does not depend on the weights, which are random; what int8 and fp16 do to features is measured
only with real weights on real tiles, where --data has them. A batch on several threads is one
share a thread, each in a session of one thread, as the tile stream has it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import Figure, as_markdown
from machine import watched
from networks import GEMM, NETWORKS, TILE_PX, USUAL_BATCH, Tiles, Work, flops, limits, ways
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.export.graph import export_extractor
from sagdeploy.export.margin import centred_cosines
from sagdeploy.export.precision import to_fp16, to_int8
from sagdeploy.models.extractors import build_extractor
from sagdeploy.serving.runtime import Graph, load_graph

TILES = 32
"""Of every measurement."""

CALIBRATION, PER_FIELD = 64, 16

TARGETS = {
    "mobilenet_v2": {"of the peak": 0.7, "int8 / fp32": 2.0},
    "resnet18": {"of the peak": 1.0, "int8 / fp32": 3.0},
}
LETTERS = {"of the peak": "P5", "int8 / fp32": "P6"}
INPUT_STAGE = 0.06
COSINE = 0.97
REAL = ("mobilenet_v2_tf", "weights/mobilenet_v2_imagenet_dequantised.pt", "tiles/brecahad")

Round = dict[str, float]
"""Seconds by way, as a clock has them, and again with CPU in front as this thread had them."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one way was."""

    network: str
    way: str
    tiles_per_s: float
    spread: tuple[float, float]
    ratio: float
    """To fp32 with the usual batch on one thread, in the same round; the median."""


def measure(rounds: int, kept: int, networks: Sequence[str]) -> dict[str, list[Round]]:
    """The quietest rounds of each network, and the limits beside them."""
    tiles = np.random.default_rng(0).integers(0, 256, (TILES, TILE_PX, TILE_PX, 3), np.uint8)
    quietest = {}
    with TemporaryDirectory() as scratch:
        for network in networks:
            timed = limits() | ways(network, Path(scratch), tiles)
            done = [_round(timed) for _ in range(rounds + 1)][1:]
            done.sort(key=lambda each: each["others"])
            quietest[network] = done[:kept]
    return quietest


def summarise(network: str, rounds: Sequence[Round]) -> Iterator[Speed]:
    """Medians over rounds."""
    usual = f"fp32, batch {USUAL_BATCH}"
    for way in rounds[0]:
        if way.startswith(("sgemm", "others", "CPU")):
            continue
        rates = sorted(TILES / each[way] for each in rounds)
        ratio = statistics.median(each[usual] / each[way] for each in rounds)
        yield Speed(network, way, statistics.median(rates), (rates[0], rates[-1]), ratio)


def figures(network: str, rounds: Sequence[Round]) -> Iterator[Figure]:
    """What has a target."""
    fp32, work, gemm = f"CPU fp32, batch {USUAL_BATCH}", flops(network) * TILES, 2.0 * GEMM**3

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    found = {
        "of the peak": median(lambda r: work / r[fp32] / (gemm / r["CPU sgemm"])),
        "int8 / fp32": median(lambda r: r[fp32] / r[f"CPU int8, batch {USUAL_BATCH}"]),
    }
    for what, target in TARGETS.get(network, {}).items():
        yield Figure(f"{LETTERS[what]} {network}, {what}", found[what], target)
    stage = median(lambda r: 1 - r["CPU no input stage"] / r[fp32])
    yield Figure(f"P5 {network}, input stage", stage, INPUT_STAGE, at_most=True)


def quality(data: Path) -> Iterator[Figure]:
    """What fewer bits do to the features of real tiles, by a network with real weights."""
    name, weights, folder = REAL
    fields = [path for path in sorted((data / folder).glob("*.jpg")) if "-" not in path.stem]
    half = len(fields) // 2
    calibration, tried = (np.concatenate([*map(_crops, f)]) for f in (fields[:half], fields[half:]))
    calibration = calibration[:: max(1, len(calibration) // CALIBRATION)]
    batches = np.array_split(calibration, max(1, len(calibration) // USUAL_BATCH))
    with TemporaryDirectory() as scratch:
        source = Path(scratch) / "fp32.onnx"
        export_extractor(build_extractor(name, data / weights), source, tile_px=TILE_PX)
        lower = {
            "int8": to_int8(source, Path(scratch) / "int8.onnx", batches),
            "fp16": to_fp16(source, Path(scratch) / "fp16.onnx"),
        }
        whole = load_graph(source)
        features, centre = _features(whole, tried), _features(whole, calibration).mean(axis=0)
        for precision, path in lower.items():
            cosines = centred_cosines(features, _features(load_graph(path), tried), centre)
            what = f"P6 {name}, centred cosine of {precision}, {len(tried)} tiles"
            yield Figure(what, float(cosines.mean()), COSINE)


def _crops(field: Path) -> Tiles:
    rng = np.random.default_rng(int(field.stem))
    pixels = np.asarray(Image.open(field).convert("RGB"))
    room = np.array(pixels.shape[:2]) - TILE_PX
    corners = rng.integers(0, room + 1, (PER_FIELD, 2))
    return np.stack([pixels[y : y + TILE_PX, x : x + TILE_PX] for y, x in corners])


def _features(graph: Graph, tiles: Tiles) -> NDArray[np.float32]:
    parts = [tiles[i : i + USUAL_BATCH] for i in range(0, len(tiles), USUAL_BATCH)]
    return np.concatenate([graph.run({"tiles": part})["features"] for part in parts])


def _round(timed: dict[str, Work]) -> Round:
    took: Round = {}
    with watched() as usage:
        for way, work in timed.items():
            begun, begun_cpu = time.perf_counter(), time.thread_time()
            work()
            took[way] = time.perf_counter() - begun
            took[f"CPU {way}"] = time.thread_time() - begun_cpu
    return took | {"others": usage.others}


def show(speeds: Sequence[Speed], reached: Sequence[Figure], others: float) -> None:
    """Print the tables."""
    print(f"Medians of the quietest rounds; other programs took {others:.0%} of the machine.\n")
    print("| network | way | tiles/s | spread | to fp32 |\n|---|---|---|---|---|")
    for each in speeds:
        low, high = each.spread
        print(
            f"| {each.network} | {each.way} | {each.tiles_per_s:.1f} | {low:.1f} to {high:.1f} "
            f"| {each.ratio:.2f} |"
        )
    print("\n" + as_markdown(reached))


def main() -> None:
    """Measure, show, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kept", type=int, default=5, help="rounds that count, the quietest")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="real weights and tiles"
    )
    parser.add_argument("--out", type=Path, default=Path("extractor.json"))
    options = parser.parse_args()
    rounds = measure(options.rounds, options.kept, options.networks)
    speeds = [speed for name, each in rounds.items() for speed in summarise(name, each)]
    reached = [figure for name, each in rounds.items() for figure in figures(name, each)]
    reached += quality(options.data) if options.data.is_dir() else ()
    others = statistics.median(r["others"] for each in rounds.values() for r in each)
    show(speeds, reached, others)
    found = {"speeds": [asdict(s) for s in speeds], "figures": [asdict(f) for f in reached]}
    options.out.write_text(json.dumps(found | {"rounds": rounds}, indent=2) + "\n")


if __name__ == "__main__":
    main()
