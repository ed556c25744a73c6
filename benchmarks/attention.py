"""Exported self-attention over 15,000 tiles, against a graph that holds the whole map.

    python benchmarks/attention.py --out attention.json

Both give what the queries see, and the mean of the map over them: the one as `export` writes it,
a Scan over blocks of queries, the other as PyTorch's translation would, N x N entries a head. Each
runs in fresh processes, which alternate. That naive graph takes 14 GB.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
from figures import Figure, as_text

from sagdeploy.export.attention import DOMAIN, OPERATOR, with_attention
from sagdeploy.serving.runtime import load_graph
from tests.peak import peak_mib, restart_peak

HEADS, DIM = 8, 64
MEMORY, TIME = 0.05, 1.0
"""P11: extra memory and time, of the naive graph's."""

LAYER = f"""
<ir_version: 10, opset_import: ["": 18, "{DOMAIN}": 1]>
layer (float[m, n, d] query, float[m, n, d] key, float[m, n, d] value, float[m, 1, n] bias,
  float[m, 1, n] share) => (float[m, n, d] seen, float[m, 1, n] mean)
{{
  seen, mean = {DOMAIN}.{OPERATOR} (query, key, value, bias, share)
}}
"""
NAIVE = f"""
<domain: "{DOMAIN}", opset_import: ["": 18]>
{OPERATOR} (query, key, value, bias, share) => (seen, mean)
{{
  keys = Transpose <perm = [0, 2, 1]> (key)
  scores = MatMul (query, keys)
  biased = Add (scores, bias)
  attention = Softmax <axis = -1> (biased)
  seen = MatMul (attention, value)
  mean = MatMul (share, attention)
}}
"""
WAYS = ("blocks", "naive")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one graph."""

    way: str
    extra_mib: float
    """At most, beside the inputs."""

    seconds: float
    cpu_s: float


Round = dict[str, Run]
"""By way."""


def write_graph(way: str, path: Path) -> None:
    """One layer of self-attention."""
    model = onnx.parser.parse_model(LAYER)
    if way == "naive":
        model.functions.append(onnx.parser.parse_function(NAIVE))
        model = onnx.inliner.inline_local_functions(model)
    onnx.save(with_attention(model), path)


def bag(tiles: int) -> dict[str, np.ndarray]:
    """Queries, keys and values of some tiles, all there."""
    rng = np.random.default_rng(0)
    parts = {
        name: rng.standard_normal((HEADS, tiles, DIM), np.float32) / 8
        for name in ("query", "key", "value")
    }
    share = np.full((HEADS, 1, tiles), 1 / tiles, np.float32)
    return parts | {"bias": np.zeros_like(share), "share": share}


def run(way: str, path: Path, tiles: int) -> Run:
    """In this process, which has run nothing before."""
    graph, large = load_graph(path), bag(tiles)
    graph.run(bag(100))
    before, begun, begun_cpu = restart_peak(), time.perf_counter(), time.process_time()
    graph.run(large)
    took, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    return Run(way, peak_mib() - before, took, cpu_s)


def measure(paths: dict[str, Path], tiles: int) -> Round:
    """One run each way."""
    took = {}
    for way, path in paths.items():
        with multiprocessing.get_context("spawn").Pool(1) as apart:
            took[way] = apart.apply(run, (way, path, tiles))
    return took


def main() -> None:
    """Measure, show, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tiles", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("attention.json"))
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        paths = {way: Path(scratch) / f"{way}.onnx" for way in WAYS}
        for way, path in paths.items():
            write_graph(way, path)
        rounds = [measure(paths, options.tiles) for _ in range(options.rounds)]
    for way in WAYS:
        mib, seconds = (_median(rounds, way, field) for field in ("extra_mib", "seconds"))
        print(f"  {way:<8}{mib:>9.0f} MiB{seconds:>8.1f} s")
    figures = [
        _ratio("P11 attention, extra memory / naive", rounds, "extra_mib", MEMORY),
        _ratio("P11 attention, CPU time / naive", rounds, "cpu_s", TIME),
    ]
    print(as_text(figures))
    facts = {"tiles": options.tiles, "heads": HEADS, "dim": DIM}
    runs = [asdict(run) for each in rounds for run in each.values()]
    told = facts | {"runs": runs, "figures": [asdict(each) for each in figures]}
    options.out.write_text(json.dumps(told, indent=2) + "\n")


def _median(rounds: list[Round], way: str, field: str) -> float:
    return float(statistics.median(getattr(each[way], field) for each in rounds))


def _ratio(name: str, rounds: list[Round], field: str, target: float) -> Figure:
    ours, naive = WAYS
    ratios = sorted(getattr(each[ours], field) / getattr(each[naive], field) for each in rounds)
    spread = (ratios[0], ratios[-1])
    return Figure(name, statistics.median(ratios), target, at_most=True, spread=spread)


if __name__ == "__main__":
    main()
