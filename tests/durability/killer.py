"""Runs one command line again and again, each time killed (SIGKILL) elsewhere, and then to its end.

Run by the tests in a process of its own, which forks a child for each run: Python and its
libraries are there already. Reads its job from standard input, writes what happened to standard
output as JSON. The child kills itself at a step, or is killed at a moment.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import sagdeploy.batch
import sagdeploy.pipeline.extract
import sagdeploy.serving.local  # noqa: F401
from sagdeploy.cli.app import run

STEPS = {
    "os.rename",
    "os.mkdir",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.fsync",
    "open",
}
"""What Python audits before it happens, and `fsync`; of `open`, only those that write."""

OUT = "OUT"
"""In the arguments: stands for the folder of results."""


def main() -> None:
    """One line of JSON for each kill."""
    job: dict[str, Any] = json.load(sys.stdin)
    if job["arguments"][0] == "extract":
        import_module("sagdeploy.export.extractor")  # torch, which takes seconds
    kills = _steps(job) if job["way"] == "steps" else _moments(job)
    sys.stdout.write(json.dumps(kills))


def _steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    """A run killed at its first change of the file system, one at its second, ... to the last."""
    kills: list[dict[str, Any]] = []
    for step in range(1, 1000):
        out = _fresh(job, f"step-{step:03d}")
        events = STEPS if job["thorough"] else {"os.rename"}
        code = _wait(_fork(job["arguments"], out, lambda: _die_at(step, events)))  # noqa: B023
        if code >= 0:
            shutil.rmtree(out)
            return kills
        kills.append(_resume(job, out))
    raise AssertionError("a run of more than a thousand steps")


def _moments(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs killed at moments that a seed has chosen, from the first to about the last."""
    rng = random.Random(job["seed"])
    begun = time.perf_counter()
    _wait(_fork(job["arguments"], _fresh(job, "whole"), lambda: None))
    seconds = time.perf_counter() - begun
    kills = []
    for number in range(job["kills"]):
        out = _fresh(job, f"moment-{number:03d}")
        child = _fork(job["arguments"], out, lambda: None)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _wait(child)
        kills.append(_resume(job, out))
    return kills


def _resume(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """What a killed run left, and how the next one ended."""
    results = [*out.glob("[!.]*/prediction.json"), *out.glob("[!.]*.h5")]
    finished = {str(path.relative_to(out)): path.stat().st_ino for path in results}
    code = _wait(_fork(job["arguments"], out, lambda: None))
    return {"out": str(out), "finished": finished, "code": code}


def _fresh(job: dict[str, Any], name: str) -> Path:
    out = Path(job["folder"]) / name
    if job.get("before"):
        shutil.copytree(job["before"], out)
    return out


def _fork(arguments: list[str], out: Path, prepare: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        prepare()
        os._exit(run([str(out) if argument == OUT else argument for argument in arguments]))
    return child


def _wait(child: int) -> int:
    """The exit code of a child, or the signal that ended it as a negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at(step: int, events: set[str]) -> None:
    """Have this process killed just before the `step`-th of these events."""
    left = step
    flush = os.fsync

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in events and not reads:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        sys.audit("os.fsync")
        flush(descriptor)

    os.fsync = fsync  # type: ignore[assignment] # Python does not audit it
    sys.addaudithook(count)


if __name__ == "__main__":
    main()
