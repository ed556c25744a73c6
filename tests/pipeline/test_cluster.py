"""Slides over real processes: those of this machine, and the workers of a real scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sagdeploy.batch import Batch, predict_batch
from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.pipeline.cluster import spread_over, workers_here, workers_of
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.pipeline.stream import untold
from sagdeploy.pipeline.versions import ModelChoice
from sagdeploy.serving.local import LocalEngine

SLIDES = 20
START_S = 60
PATIENCE_S = 5


@dataclass(frozen=True, slots=True)
class DaskCluster:
    """A scheduler and its workers, each a process of its own."""

    address: str
    workers: tuple[subprocess.Popen[bytes], ...]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """As a lab would start it; the workers have no nanny, so that one who dies stays dead."""
    facts = tmp_path / "scheduler.json"
    scheduler = dask("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", facts)
    until = time.monotonic() + START_S
    while not facts.exists() or not facts.read_text().strip():
        assert scheduler.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    address = json.loads(facts.read_text())["address"]
    one = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", tmp_path)
    workers = tuple(dask("worker", address, *one) for _ in range(2))
    try:
        yield DaskCluster(address, workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def dask(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1"]
        + [str(argument) for argument in arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def slides(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SlideInput, ...]:
    """A slide under many names, and one that is none."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(SLIDES - 1):
        (folder / f"slide-{number:02}.tiff").hardlink_to(painted)
    (folder / "slide-none.tiff").write_text("no slide")
    return tuple(SlideInput(path.stem, path) for path in sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def undisturbed(
    slides: tuple[SlideInput, ...], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process makes of the slides."""
    out = tmp_path_factory.mktemp("undisturbed")
    predict_batch(slides, batch_into(out, repository))
    return tree(out)


def batch_into(out: Path, repository: Path) -> Batch:
    return Batch(LocalEngine(repository), ModelChoice("sag"), out, PredictOptions())


def tree(folder: Path) -> dict[str, bytes]:
    """All results, by name; the journal and its lock are of each run alone."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.json", ".lock")
    }


def test_a_worker_that_is_killed_loses_no_slide(
    cluster: DaskCluster,
    slides: tuple[SlideInput, ...],
    undisturbed: dict[str, bytes],
    repository: Path,
    tmp_path: Path,
) -> None:
    seen: list[str] = []

    def report(outcome: SlideOutcome) -> None:
        seen.append(outcome.slide_id)
        if len(seen) == SLIDES // 2:
            cluster.workers[0].send_signal(signal.SIGKILL)

    out = tmp_path / "out"
    with workers_of(cluster.address) as spread:
        result = predict_batch(slides, batch_into(out, repository), report=report, spread=spread)
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert sorted(seen) == [slide.slide_id for slide in slides]
    assert [outcome.slide_id for outcome in result.outcomes] == sorted(seen)
    assert result.exit_code == 8
    assert tree(out) == undisturbed


def test_a_task_that_kills_every_worker_is_one_failure() -> None:
    def lost(task: str, why: str) -> str:
        return f"{task}: {why}"

    with workers_here(1) as spread:
        ended = list(spread(lambda task, progress: str(os._exit(9)), ["poison"], lost, untold))
    assert ended == ["poison: its worker died, and so did all that tried again"]


def test_processes_of_this_machine_write_what_one_writes(
    slides: tuple[SlideInput, ...], undisturbed: dict[str, bytes], repository: Path, tmp_path: Path
) -> None:
    names = [str(slide.path) for slide in slides[-4:]]
    done = sagdeploy("predict", *names, "--repository", repository, "--workers", 2, cwd=tmp_path)
    assert done.returncode == 8, done.stderr
    written = tree(tmp_path / "out")
    del written["predictions.csv"]  # of these slides only
    assert len(written) > len(names)
    assert written.items() <= undisturbed.items()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["status"] == "ended"


def test_bags_are_the_same_by_a_cluster(
    cluster: DaskCluster, painted: Path, tmp_path: Path
) -> None:
    plain = ("extract", painted, "--extractor", "stain_texture", "--out")
    one = sagdeploy(*plain, "one", cwd=tmp_path)
    many = sagdeploy(*plain, "many", "--scheduler", cluster.address, cwd=tmp_path)
    assert (one.returncode, many.returncode) == (0, 0), many.stderr
    assert tree(tmp_path / "many") == tree(tmp_path / "one")


def test_an_interrupted_run_leaves_no_worker(
    slides: tuple[SlideInput, ...], repository: Path, tmp_path: Path
) -> None:
    names = [str(slide.path) for slide in slides]
    command = ["predict", *names, "--repository", str(repository), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sagdeploy", *command],
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + START_S
    while not list((tmp_path / "out").glob("slide-*")) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    assert not of_session(process.pid)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_a_scheduler_that_is_not_there_is_named() -> None:
    with (
        pytest.raises(EngineError, match="no Dask scheduler answers there"),
        workers_of("tcp://127.0.0.1:1"),
    ):
        pass


def test_workers_here_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--workers"):
        spread_over(2, "tcp://127.0.0.1:1")


def of_session(leader: int) -> list[int]:
    """Processes of a session that still run."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if session_of(pid) == leader]


def session_of(pid: int) -> int | None:
    """None of a process that is gone, or has ended and waits for its parent to see it."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def sagdeploy(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sagdeploy", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
