"""A run that is killed, wherever that is, leaves nothing torn, and the same command ends it.

SAGDEPLOY_THOROUGH=1 kills at every single step and at every system call that writes, and a hundred
times at random: `make durability`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sagdeploy.cli.app import run
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.durability.killer import OUT, results

ROOT = Path(__file__).parents[2]
THOROUGH = bool(os.environ.get("SAGDEPLOY_THOROUGH"))
MOMENTS = 100 if THOROUGH else 8
CALLS = 4
"""Of a run, at which it is killed where not at every one."""

SLIDES = 6
EXTRACTOR = ("--extractor", "stain_texture", "--tile-px", "112")
VARIABLE = {"run.json", ".lock"}
"""What is not the same whenever results are."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small slides of some twenty tiles."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(SLIDES):
        spec = SlideSpec(seed=number, size_l0=(640, 470), grade=1.0)
        paint_slide(folder / f"slide-{number}.tiff", spec)
    return folder


@pytest.fixture(scope="module")
def extracted(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an `undisturbed` extraction, and of its extractor as it is `before` one."""
    folder = tmp_path_factory.mktemp("extracted")
    undisturbed, before = folder / "undisturbed", folder / "before"
    command = ["extract", str(slides / "slide-1.tiff"), *EXTRACTOR]
    assert run([*command, "--out", str(undisturbed)]) == 0
    before.mkdir()  # making the extractor takes torch, and seconds
    for name in ("extractor.onnx", "extractor.json"):
        shutil.copy(undisturbed / name, before)
    return folder


@pytest.fixture(params=["steps", "calls"])
def way(request: pytest.FixtureRequest) -> str:
    """Where a run is killed; skips the system calls where nothing can be traced."""
    way: str = request.param
    if way == "calls":
        if shutil.which("strace") is None:
            pytest.skip("strace is missing: apt-get install strace")
        command = ["strace", "-o", os.devnull, "true"]
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"nothing can be traced here: {tried.stderr.strip()}")
    return way


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, but those that differ from run to run."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in VARIABLE)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def killed(folder: Path, arguments: list[str], **job: object) -> list[dict[str, Any]]:
    """What the killer did to a command, one kill after the other."""
    job |= {"folder": str(folder), "arguments": arguments, "thorough": THOROUGH}
    done = subprocess.run(
        [sys.executable, "-m", "tests.durability.killer"],
        cwd=ROOT,
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kills: list[dict[str, Any]] = json.loads(done.stdout)
    return kills


def check(kills: list[dict[str, Any]], folder: Path) -> None:
    """Nothing torn was seen; the next run ended well, changed no byte, and did nothing twice."""
    undisturbed = folder / "undisturbed"
    wholes = (results(undisturbed), results(folder / "before"))
    for kill in kills:
        out = Path(kill["out"])
        for slide, files in kill["left"].items():
            assert files in [whole.get(slide) for whole in wholes], (out, slide)
        assert kill["code"] == 0, out.with_suffix(".log").read_text()
        assert contents(out) == contents(undisturbed), out
        for name, inode in kill["finished"].items():
            assert (out / name).stat().st_ino == inode, (out, name)


def test_kills_at_random_moments_change_no_byte_and_do_nothing_twice(
    slides: Path, repository: Path, tmp_path: Path
) -> None:
    command = ["predict", str(slides), "--repository", str(repository), "--out"]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    kills = killed(tmp_path, [*command, OUT], way="moments", kills=MOMENTS, seed=8)
    assert len(kills) == MOMENTS
    assert any(0 < len(kill["finished"]) < SLIDES for kill in kills)
    check(kills, tmp_path)


def test_a_kill_at_any_step_of_a_new_result_changes_no_byte(
    way: str, slides: Path, repository: Path, tmp_path: Path
) -> None:
    slide = str(slides / "slide-1.tiff")
    command = ["predict", slide, "--repository", str(repository), "--out"]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    kills = killed(tmp_path, [*command, OUT], way=way, kills=CALLS)
    assert len(kills) >= CALLS
    check(kills, tmp_path)


def test_a_kill_at_any_step_of_a_replacement_loses_neither_result(
    way: str, slides: Path, repository: Path, tmp_path: Path
) -> None:
    slide = str(slides / "slide-1.tiff")
    command = ["predict", slide, "--repository", str(repository), "--out"]
    assert run([*command, str(tmp_path / "before"), "--mpp", "0.4"]) == 0
    command = [*command[:-1], "--overwrite", "--out"]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    kills = killed(tmp_path, [*command, OUT], way=way, kills=CALLS, before=str(tmp_path / "before"))
    check(kills, tmp_path)


def test_a_kill_at_any_step_of_an_extraction_changes_no_byte(
    way: str, slides: Path, extracted: Path, tmp_path: Path
) -> None:
    command = ["extract", str(slides / "slide-1.tiff"), *EXTRACTOR, "--out", OUT]
    kills = killed(tmp_path, command, way=way, kills=CALLS, before=str(extracted / "before"))
    check(kills, extracted)
