"""What a user can get wrong ends in one line and the right exit code, and leaves nothing half."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from sagdeploy.cli.app import run
from sagdeploy.slides.slide import open_slide

Maker = Callable[[Path], Path]


@dataclass(frozen=True)
class Failure:
    """How a command line ended."""

    code: int
    line: str


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., Failure]:
    """Runs a command that must fail, and checks that it fails in one line."""

    def command(*arguments: object) -> Failure:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert code != 0
        assert "Traceback" not in captured.err
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        lines += [line for line in captured.err.splitlines() if line.startswith("[1/1]")]
        assert len(lines) == 1, captured.err
        return Failure(code, lines[0])

    return command


def tiff(path: Path, pixels: np.ndarray, mpp: float | None) -> Path:
    """A tiled TIFF that OpenSlide opens."""
    scale = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **scale)  # type: ignore[arg-type]
    return path


def plain(value: int) -> np.ndarray:
    """One colour all over, wider than high."""
    return np.full((600, 1000, 3), value, np.uint8)


def zero_bytes(path: Path) -> Path:
    path.touch()
    return path


def text(path: Path) -> Path:
    path.write_text("this is no slide\n")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def missing(path: Path) -> Path:
    return path


@pytest.mark.parametrize("make", [zero_bytes, text, folder, missing])
def test_what_is_no_slide_is_unreadable(
    make: Maker, tmp_path: Path, repository: Path, fails: Callable[..., Failure]
) -> None:
    slide = make(tmp_path / "bad.svs")
    out = tmp_path / "out"
    failure = fails("predict", slide, "--repository", repository, "--out", out)
    assert failure.code == 3
    assert "bad" in failure.line
    record = json.loads((out / "bad" / "prediction.json").read_text())
    assert record["status"] == "failed"
    assert record["prediction"] is None
    assert [path.name for path in (out / "bad").iterdir()] == ["prediction.json"]


def test_a_truncated_slide_is_unreadable(
    tmp_path: Path, shared_data: Path, repository: Path, fails: Callable[..., Failure]
) -> None:
    whole = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    slide = tmp_path / "cut.svs"
    slide.write_bytes(whole[: len(whole) // 2])
    failure = fails("predict", slide, "--repository", repository, "--out", tmp_path / "out")
    assert failure.code == 3


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.svs"
    os.mkfifo(fifo)
    done = subprocess.run(
        [sys.executable, "-m", "sagdeploy", "info", fifo],
        timeout=20,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("mpp", [None, 400.0, 0.001])
def test_a_slide_without_a_plausible_scale_is_not_analysable(
    mpp: float | None,
    tmp_path: Path,
    painted: Path,
    repository: Path,
    fails: Callable[..., Failure],
) -> None:
    with open_slide(painted) as whole:
        pixels = whole.read((0, 0), whole.size_l0, whole.size_l0)
    slide = tiff(tmp_path / "scale.tiff", pixels, mpp)
    failure = fails("predict", slide, "--repository", repository, "--out", tmp_path / "out")
    assert failure.code == 4
    assert "--mpp" in failure.line


@pytest.mark.parametrize("mpp", ["0", "-1", "400", "nan"])
def test_an_absurd_forced_scale_is_a_usage_error(
    mpp: str, tmp_path: Path, painted: Path, repository: Path, fails: Callable[..., Failure]
) -> None:
    failure = fails(
        "predict", painted, "--mpp", mpp, "--repository", repository, "--out", tmp_path / "out"
    )
    assert failure.code == 2


@pytest.mark.parametrize("value", [255, 0, 243])
def test_a_slide_without_tissue_is_not_analysable(
    value: int, tmp_path: Path, repository: Path, fails: Callable[..., Failure]
) -> None:
    slide = tiff(tmp_path / "empty.tiff", plain(value), 0.5)
    out = tmp_path / "out"
    failure = fails("predict", slide, "--repository", repository, "--out", out)
    assert failure.code == 4
    assert "tissue" in failure.line
    assert json.loads((out / "empty" / "prediction.json").read_text())["status"] == "not_analysable"


def test_a_path_with_spaces_and_unicode_works(
    tmp_path: Path, painted: Path, repository: Path
) -> None:
    slide = tmp_path / "我 的 slide; rm -rf.tiff"
    shutil.copy(painted, slide)
    out = tmp_path / "results of 我"
    assert run(["predict", str(slide), "--repository", str(repository), "--out", str(out)]) == 0
    (result,) = [path for path in out.iterdir() if path.is_dir()]
    assert (result / "report.html").is_file()


def test_an_output_that_cannot_be_written_stops_before_any_slide(
    tmp_path: Path, painted: Path, repository: Path, fails: Callable[..., Failure]
) -> None:
    out = tmp_path / "out"
    out.write_text("a file where the folder should be")
    failure = fails("predict", painted, "--repository", repository, "--out", out)
    assert failure.code == 7
    assert out.read_text() == "a file where the folder should be"


def test_a_repository_that_is_not_there_names_itself(
    tmp_path: Path, painted: Path, fails: Callable[..., Failure]
) -> None:
    failure = fails("predict", painted, "--repository", tmp_path / "nowhere", "--out", tmp_path)
    assert failure.code == 5
    assert "nowhere" in failure.line


def test_a_server_that_is_not_there_can_be_tried_later(
    tmp_path: Path, painted: Path, fails: Callable[..., Failure]
) -> None:
    failure = fails("predict", painted, "--server", "localhost:9", "--out", tmp_path)
    assert failure.code == 6
    assert "localhost:9" in failure.line


def test_one_bad_slide_never_stops_the_others(
    tmp_path: Path, painted: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = text(tmp_path / "bad.svs")
    out = tmp_path / "out"
    assert (
        run(["predict", str(bad), str(painted), "--repository", str(repository), "--out", str(out)])
        == 8
    )
    report = json.loads((out / "run.json").read_text())
    assert [row["status"] for row in report["slides"]] == ["failed", "done"]
    assert "Traceback" not in capsys.readouterr().err


COHORTS = {
    "duplicate ids": "slide_id,slide_path,label\na,a.svs,x\na,b.svs,y\n",
    "a patient in two splits": (
        "slide_id,slide_path,label,split,patient_id\na,a.svs,x,train,p\nb,b.svs,y,test,p\n"
    ),
    "one class only": "slide_id,slide_path,label\na,a.svs,x\nb,b.svs,x\n",
    "no label": "slide_id,slide_path,label\na,a.svs,x\nb,b.svs,\n",
    "no path": "slide_id,label\na,x\nb,y\n",
}


@pytest.mark.parametrize("table", COHORTS.values(), ids=COHORTS.keys())
def test_a_cohort_that_cannot_be_used_is_refused(
    table: str, tmp_path: Path, fails: Callable[..., Failure]
) -> None:
    cohort = tmp_path / "cohort.csv"
    cohort.write_text(table)
    failure = fails("train", cohort, "--bags", tmp_path, "--out", tmp_path / "run")
    assert failure.code == 2
    assert not (tmp_path / "run").exists()


def test_an_unknown_command_and_option_are_usage_errors(fails: Callable[..., Failure]) -> None:
    assert fails("diagnose").code == 2
    assert fails("predict", "slide.svs", "--modle", "sag").code == 2
