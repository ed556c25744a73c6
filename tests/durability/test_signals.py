"""Ctrl-C and SIGTERM end a run at once, its journal says so, and the same command resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagdeploy.slides.synthetic import SlideSpec, paint_slide

PATIENCE_S = 5.0

SLIDES = 40


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> list[str]:
    """A run over many small slides, without its --out."""
    folder = tmp_path_factory.mktemp("slides")
    paint_slide(folder / "slide-00.tiff", SlideSpec(seed=2, size_l0=(640, 470), grade=1.0))
    for number in range(1, SLIDES):
        os.link(folder / "slide-00.tiff", folder / f"slide-{number:02d}.tiff")
    program = [sys.executable, "-m", "sagdeploy"]
    return [*program, "predict", str(folder), "--repository", str(repository), "--out"]


def children(pid: int) -> Iterator[int]:
    """Processes below a process, at any depth."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from children(int(child))


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_ends_a_run_that_the_same_command_resumes(
    sent: signal.Signals, code: int, command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("[!.]*/prediction.json"))) < 2:  # so that one is noted, too
        assert process.poll() is None
        time.sleep(0.02)
    below = list(children(process.pid))
    process.send_signal(sent)
    begun = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - begun < PATIENCE_S
    assert process.returncode == code
    assert "Traceback" not in said
    assert "the same command resumes" in said.splitlines()[-1]
    assert not [pid for pid in below if is_running(pid)]
    run = json.loads((out / "run.json").read_text())
    rows = [row["status"] for row in run["slides"]]
    assert run["status"] == "interrupted"
    assert len(rows) == SLIDES
    assert set(rows) == {"done", "unfinished"}
    table = (out / "predictions.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[1] for row in table) == sorted(rows)
    assert not list(out.glob(".partial-*"))
    done = {path: path.stat().st_ino for path in out.glob("*/prediction.json")}
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert all(path.stat().st_ino == inode for path, inode in done.items())
    assert json.loads((out / "run.json").read_text())["status"] == "ended"


SWALLOWS = """
import signal, sys, time
from sagdeploy.cli import app

class Closing:
    def __del__(self):
        signal.raise_signal(signal.{0})
        time.sleep(0)

@app.app.command()
def wait() -> None:
    Closing()
    time.sleep(60)

sys.argv[1:] = ["wait"]
app.main()
"""


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_an_object_is_destroyed_is_not_lost(sent: str, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SWALLOWS.format(sent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_of_two_runs_into_one_folder_one_is_refused(command: list[str], tmp_path: Path) -> None:
    runs = [
        subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 7]
    (refused,) = [text for process, text in zip(runs, said, strict=True) if process.returncode]
    other = next(process.pid for process in runs if process.returncode == 0)
    assert f"process {other}, since 20" in refused
