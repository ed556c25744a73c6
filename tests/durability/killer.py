"""Runs one command line again and again, each time killed (SIGKILL) elsewhere, and then to its end.

Run by the tests in a process of its own, which forks a child for each run: Python and its
libraries are there already. Reads its job from standard input, writes what happened to standard
output as JSON. The child kills itself at a step, or is killed at a system call or at a moment.
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
from sagdeploy.files import sha256_of
from tests.durability.syscalls import kill_at, record, stand_still

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
    ways = {"steps": _steps, "calls": _calls, "moments": _moments}
    sys.stdout.write(json.dumps(ways[job["way"]](job)))


def results(out: Path) -> dict[str, dict[str, str]]:
    """The SHA-256 of each file that a reader sees of a slide's result, by the slide's folder."""
    found: dict[str, dict[str, str]] = {}
    for path in (*out.glob("[!.]*/*"), *out.glob("[!.]*.h5")):
        slide = path.relative_to(out).parts[0]
        found.setdefault(slide, {})[path.name] = sha256_of(path)
    return found


def _steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    """A run killed at its first change of the file system, one at its second, ... to the last."""
    kills: list[dict[str, Any]] = []
    for step in range(1, 1000):
        out = _fresh(job, f"step-{step:03d}")
        before = _finished(out)
        events = STEPS if job["thorough"] else {"os.rename"}
        code = _wait(_fork(job["arguments"], out, lambda: _die_at(step, events)))  # noqa: B023
        if code >= 0:
            shutil.rmtree(out)
            return kills
        kills.append(_resume(job, out, before))
    raise AssertionError("a run of more than a thousand steps")


def _calls(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs killed at each system call that writes below the folder of results, or at some."""
    whole = _fresh(job, "recorded")
    child = _fork(job["arguments"], whole, stand_still)
    calls = record(child, whole)
    assert _wait(child) == 0, Path(f"{whole}.log").read_text()
    kills = []
    some = range(len(calls)) if job["thorough"] else _spread(len(calls), job["kills"])
    for number in some:
        out = _fresh(job, f"call-{number:03d}")
        before = _finished(out)
        child = _fork(job["arguments"], out, stand_still)
        kill_at(child, calls[number])
        assert _wait(child) == -signal.SIGKILL, f"{out}: not every run makes the same calls"
        kills.append(_resume(job, out, before) | {"call": calls[number].name})
    return kills


def _spread(length: int, count: int) -> list[int]:
    """`count` places in a list, evenly apart."""
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


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
        kills.append(_resume(job, out, {}))
    return kills


def _resume(job: dict[str, Any], out: Path, before: dict[str, int]) -> dict[str, Any]:
    """What a killed run finished that was not there before, and how the next one ended."""
    finished = dict(_finished(out).items() - before.items())
    left = results(out)
    code = _wait(_fork(job["arguments"], out, lambda: None))
    return {"out": str(out), "finished": finished, "left": left, "code": code}


def _finished(out: Path) -> dict[str, int]:
    """The inode of each result that says it is finished."""
    ends = [*out.glob("[!.]*/prediction.json"), *out.glob("[!.]*.h5")]
    return {str(path.relative_to(out)): path.stat().st_ino for path in ends}


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
