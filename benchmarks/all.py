"""Run the benchmarks that end in minutes, and write what they found beside the machine's facts.

    python benchmarks/all.py [--only reader startup] [--out benchmarks/RESULTS.md]

Each is a command of its own, run alone, which prints its tables and writes JSON into `results/`
beside RESULTS.md. One that fails is told of there, and does not stop the others.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from figures import Figure, as_markdown

from sagdeploy.serving.runtime import CPU, providers

HERE = Path(__file__).parent
PACKAGES = ("sagdeploy", "numpy", "onnxruntime-gpu", "onnxruntime", "torch", "openslide-python")
PACKAGES += ("openslide-bin", "simplejpeg", "imagecodecs", "tritonclient")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
LONGEST_S = 3600
REAL_SLIDE = HERE.parents[1] / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"
REAL = ("--real", str(REAL_SLIDE)) if REAL_SLIDE.is_file() else ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A file of this folder, and how it is run here."""

    name: str
    title: str
    options: tuple[str, ...] = ()
    writes: bool = True
    """Whether it takes --out FILE.json."""


BENCHMARKS = (
    Benchmark("reader", "Reading tiles", REAL),
    Benchmark("extractor", "Extractors"),
    Benchmark("slide", "A slide, from file to report", REAL),
    Benchmark("attention", "Self-attention over a large bag"),
    Benchmark("memory", "Memory"),
    Benchmark("serving", "Triton on the same machine"),
    Benchmark("training", "Training"),
    Benchmark("startup", "Start"),
    Benchmark("report", "Reports", writes=False),
)


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a benchmark."""

    benchmark: Benchmark
    minutes: float
    printed: str
    error: str
    """Its last line; empty where it ended well."""


def run(benchmark: Benchmark, results: Path) -> Ran:
    """Run one to its end."""
    command = [sys.executable, str(HERE / f"{benchmark.name}.py"), *benchmark.options]
    if benchmark.writes:
        command += ["--out", str(results / f"{benchmark.name}.json")]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_S, check=False
        )
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        printed, error = done.stdout, lines[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        printed, error = "", f"did not end within {LONGEST_S // 60} minutes"
    return Ran(benchmark, (time.perf_counter() - begun) / 60, printed.strip(), error)


def figures(ran: list[Ran], results: Path) -> list[Figure]:
    """What has a target, of all that ended well."""
    return [
        Figure(**figure)
        for each in ran
        if not each.error and each.benchmark.writes
        for figure in json.loads((results / f"{each.benchmark.name}.json").read_text())["figures"]
    ]


def report(ran: list[Ran], reached: list[Figure]) -> str:
    """RESULTS.md."""
    parts = [
        "# Results",
        "Written by `make bench`. Compare figures of one table with each other, not with those of "
        "another day or machine.",
        "\n".join(f"* {name}: {value}" for name, value in facts().items()),
        "## Targets",
        as_markdown(reached),
    ]
    for each in ran:
        parts.append(f"## {each.benchmark.title}")
        parts.append(f"`benchmarks/{each.benchmark.name}.py`, {each.minutes:.1f} minutes.")
        parts += [f"**It failed**: {each.error}"] if each.error else []
        parts += [_shown(each.printed)] if each.printed else []
    return "\n\n".join(parts) + "\n"


def facts() -> dict[str, str]:
    """The machine, and what runs on it."""
    cores, memory = len(os.sched_getaffinity(0)), os.sysconf("SC_PHYS_PAGES")
    on_gpu = providers()[0] != CPU
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{_cpu('model name')}, {cores} cores; {_instructions()}",
        "memory": f"{memory * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "GPU": "CUDA" if on_gpu else "none; with one only ONNX Runtime's provider would be another",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(filter(None, map(_version, PACKAGES))),
    }


def _cpu(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return platform.processor()


def _instructions() -> str:
    known = _cpu("flags").split()
    return ", ".join(name for name in INSTRUCTIONS if name in known) or "instructions not known"


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _shown(printed: str) -> str:
    """Markdown as it is, other tables as they were printed."""
    is_markdown = any(line.startswith("|") for line in printed.splitlines())
    return printed if is_markdown else f"```text\n{printed}\n```"


def main() -> None:
    """Run, tell of each as it ends, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    results = options.out.parent / "results"
    results.mkdir(parents=True, exist_ok=True)
    ran = []
    for benchmark in BENCHMARKS:
        if benchmark.name in options.only:
            ran.append(run(benchmark, results))
            ended = ran[-1].error or f"{ran[-1].minutes:.1f} minutes"
            print(f"{benchmark.name}: {ended}", flush=True)
            options.out.write_text(report(ran, figures(ran, results)))
    sys.exit(any(each.error for each in ran))


if __name__ == "__main__":
    main()
