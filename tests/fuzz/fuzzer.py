"""Slides damaged by chance, given to `predict` in real processes: how each ends.

Case N of a seed is the same file, always.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.bigtiff import write_svs
from tests.fuzz.mutations import MUTATIONS

CHUNK = 50
"""Cases a process."""

PATIENCE_S = 20.0
"""For one slide."""

EXPECTED = {0, 3, 4}
ROOT = Path(__file__).parents[2]
DICOM = ROOT.parent / "shared/data/slides/multiframe_camelyon_challenge_image.dcm"


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """How one damaged slide ended."""

    case: str
    code: int
    """The slide's exit code, or that of the process that it brought down."""

    problem: str
    """What is not as it must be; empty where nothing is."""


def bases(folder: Path) -> dict[str, bytes]:
    """Good slides by format, small."""
    paint_slide(folder / "base.tif", SlideSpec(seed=3, size_l0=(400, 300), grade=1.0))
    with open_slide(folder / "base.tif") as slide:
        pixels = slide.read((0, 0), slide.size_l0, slide.size_l0)
    write_svs(folder / "base.svs", pixels)
    found = [folder / "base.tif", folder / "base.svs"]
    dicom = Path(os.environ.get("SAGDEPLOY_TEST_DATA", "")) / "slides" / DICOM.name
    found += [path for path in (DICOM, dicom) if path.is_file()][:1]
    return {path.suffix: path.read_bytes() for path in found}


def damaged(originals: Mapping[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Name and bytes of a case; its name says what it was and what was done to it."""
    rng = random.Random(f"{seed}/{number}")
    suffix = rng.choice(sorted(originals))
    data, done = originals[suffix], []
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(sorted(MUTATIONS))
        data = MUTATIONS[name](data, rng) if len(data) > 2 * 20 else data
        done.append(name)
    return f"case-{number:05d}-{'-'.join(done)}{suffix}", data


def fuzz(cases: range, seed: int, repository: Path, out: Path) -> Iterator[Fuzzed]:
    """How each case ends, in chunks; two processes at a time.

    out: folder where the files of cases with a problem are kept
    """
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        originals = bases(Path(scratch))
        chunks = [cases[start : start + CHUNK] for start in range(0, len(cases), CHUNK)]

        def work(chunk: range) -> Sequence[Fuzzed]:
            folder = Path(scratch) / str(chunk.start)
            for number in chunk:
                name, data = damaged(originals, seed, number)
                path = folder / "slides" / str(number) / name  # DICOM's of a folder are one slide
                path.parent.mkdir(parents=True)
                path.write_bytes(data)
            found = list(_run(folder, repository))
            for each in found:
                if each.problem:
                    out.mkdir(parents=True, exist_ok=True)
                    (path,) = folder.glob(f"slides/*/{each.case}")
                    shutil.copy(path, out)
            shutil.rmtree(folder)
            return found

        for found in pool.map(work, chunks):
            yield from found


def _run(folder: Path, repository: Path) -> Iterator[Fuzzed]:
    """All slides of a folder; those after one that brought the process down get another one."""
    slides = sorted(folder.glob("slides/*/*"), key=lambda path: path.name)
    while slides:
        out = folder / f"out-{len(slides)}"
        arguments = [*map(str, slides), "--repository", str(repository), "--out", str(out)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "sagdeploy", "predict", *arguments],
                capture_output=True, text=True, timeout=PATIENCE_S * len(slides), check=False,
                errors="replace",
            )  # fmt: skip
            code, said, results = done.returncode, done.stderr, done.stdout.splitlines()
        except subprocess.TimeoutExpired:
            code, said, results = -1, "hung", []
        lines = _lines([*results, *said.splitlines()], slides)
        seconds = _seconds(out / "run.json")
        for slide, line in zip(slides, lines, strict=False):
            yield _judged(slide, line, out / slide.stem, seconds.get(slide.stem, 0))
        if len(lines) == len(slides) and code in EXPECTED | {8} and "Traceback" not in said:
            return
        brought_down = slides[min(len(lines), len(slides) - 1)]
        last = said.strip().splitlines()[-1:] or [""]
        yield Fuzzed(brought_down.name, code, f"the process ended with {code}: {last[0]}")
        slides = slides[len(lines) + 1 :]


def _lines(said: Sequence[str], slides: Sequence[Path]) -> list[str]:
    """The line of each slide in turn, up to the first that has none."""
    ended = {line.partition("] ")[2] if line.startswith("[") else line for line in said}
    by_name = {line.partition(": ")[0]: line for line in ended}
    return list(takewhile(bool, (by_name.get(slide.stem, "") for slide in slides)))


def _seconds(journal: Path) -> dict[str, float]:
    """That each slide took, as far as the journal of the run knows."""
    if not journal.is_file():
        return {}
    rows = json.loads(journal.read_text())["slides"]
    return {row["slide_id"]: row["seconds"] or 0 for row in rows}


def _judged(slide: Path, line: str, results: Path, seconds: float) -> Fuzzed:
    """A slide that the process survived, by its line, its record and its time."""
    path = results / "prediction.json"
    record = json.loads(path.read_text()) if path.is_file() else {"error": {"code": -1}}
    code = record["error"]["code"] if record["error"] else 0
    problem = ""
    if code not in EXPECTED:
        problem = f"exit code {code}: {line}"
    elif not line.isprintable():
        problem = f"more than a line of text: {line!r}"
    elif seconds > PATIENCE_S:
        problem = f"{seconds:.0f} seconds: {line}"
    return Fuzzed(slide.name, code, problem)
