"""A run that is killed, wherever that is, leaves nothing torn, and the same command ends it.

SAGDEPLOY_THOROUGH=1 kills at every single step, and a hundred times at random: `make durability`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sagdeploy.cli.app import run
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.durability.killer import OUT

KILLER = Path(__file__).parent / "killer.py"
THOROUGH = bool(os.environ.get("SAGDEPLOY_THOROUGH"))
MOMENTS = 100 if THOROUGH else 8
SLIDES = 6
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


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, but those that differ from run to run."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in VARIABLE)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def killed(folder: Path, arguments: list[str], **job: object) -> list[dict[str, Any]]:
    """What the killer did to a command, one kill after the other."""
    job |= {"folder": str(folder), "arguments": arguments, "thorough": THOROUGH}
    done = subprocess.run(
        [sys.executable, KILLER],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kills: list[dict[str, Any]] = json.loads(done.stdout)
    return kills


def check(kills: list[dict[str, Any]], undisturbed: Path) -> None:
    """The next run of the command ended well, changed no byte, and did nothing twice."""
    for kill in kills:
        out = Path(kill["out"])
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
    check(kills, tmp_path / "undisturbed")


def test_a_kill_at_any_step_of_a_new_result_changes_no_byte(
    slides: Path, repository: Path, tmp_path: Path
) -> None:
    slide = str(slides / "slide-1.tiff")
    command = ["predict", slide, "--repository", str(repository), "--out"]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    kills = killed(tmp_path, [*command, OUT], way="steps")
    assert len(kills) > 5
    check(kills, tmp_path / "undisturbed")


def test_a_kill_at_any_step_of_a_replacement_loses_neither_result(
    slides: Path, repository: Path, tmp_path: Path
) -> None:
    slide = str(slides / "slide-1.tiff")
    command = ["predict", slide, "--repository", str(repository), "--out"]
    assert run([*command, str(tmp_path / "before"), "--mpp", "0.4"]) == 0
    command = [*command[:-1], "--overwrite", "--out"]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    kills = killed(tmp_path, [*command, OUT], way="steps", before=str(tmp_path / "before"))
    for kill in kills:
        kill["finished"] = {}  # what was there was of another kind
    check(kills, tmp_path / "undisturbed")


def test_a_kill_at_any_step_of_an_extraction_changes_no_byte(slides: Path, tmp_path: Path) -> None:
    source = tmp_path / "before"
    options = ["--extractor", "stain_texture", "--tile-px", "112", "--out"]
    command = ["extract", str(slides / "slide-1.tiff"), *options]
    assert run([*command, str(tmp_path / "undisturbed")]) == 0
    source.mkdir()  # the extractor is there: making it takes torch, and seconds
    for name in ("extractor.onnx", "extractor.json"):
        (source / name).write_bytes((tmp_path / "undisturbed" / name).read_bytes())
    kills = killed(tmp_path, [*command, OUT], way="steps", before=str(source))
    check(kills, tmp_path / "undisturbed")
