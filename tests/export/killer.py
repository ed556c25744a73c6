"""Publishes again and again, each time killed (SIGKILL) one change of the file system later.

Run by test_repository in a process of its own; reads its job from standard input.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft

CHANGES = {"os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
"""What Python audits before it happens."""


def main() -> None:
    """Leaves a copy of the repository for each step, named by its number."""
    job: dict[str, Any] = json.load(sys.stdin)
    for step in range(1, 1000):
        repository = Path(job["folder"]) / f"{step:03d}"
        if job["published"]:
            shutil.copytree(job["published"], repository)
        child = os.fork()
        if child == 0:
            _publish_and_die(repository, job, step)
        if os.waitpid(child, 0)[1] == 0:
            return  # it ended before its step


def _publish_and_die(repository: Path, job: dict[str, Any], step: int) -> None:
    left = step

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES or writes:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    draft = ManifestDraft.model_validate(job["draft"])
    extractor, diagnosis = map(Path, job["graphs"])
    publish(repository, draft, extractor_onnx=extractor, diagnosis_onnx=diagnosis)
    os._exit(0)


if __name__ == "__main__":
    main()
