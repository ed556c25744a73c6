"""Whether this installation, a repository and a server can do their work, and what to mend."""

import platform
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from sagdeploy.errors import MissingExtraError, SagError
from sagdeploy.serving.engine import Engine
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.runtime import providers
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.library import check_library, library_version

TRITON_FLOOR = (2, 69)
"""Server version of release 26.07, the first with the fixes published in 2026."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    status: Literal["PASS", "WARN", "FAIL"]
    name: str
    found: str
    fix: str = ""
    exit_code: int = 0
    """What a command that needs this would exit with."""


def examine(server: str | None, repository: Path) -> tuple[Check, ...]:
    """Checks of the installation, the repository's models and, if one is named, the server."""
    checks = [_python(), _openslide(), _onnxruntime(), _torch(), *_models(repository)]
    if server:
        checks += _server(server)
    return tuple(checks)


def exit_code(checks: Sequence[Check]) -> int:
    """0 if nothing failed, else the first failure's code."""
    return next((check.exit_code for check in checks if check.status == "FAIL"), 0)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("PASS", "Python", found)


def _openslide() -> Check:
    found = library_version()
    try:
        check_library(found)
    except MissingExtraError as error:
        return _failed("OpenSlide", error)
    return Check("PASS", "OpenSlide", found)


def _onnxruntime() -> Check:
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers())
    return Check("PASS", "ONNX Runtime", f"runs on {names}")


def _torch() -> Check:
    try:
        return Check("PASS", "PyTorch", version("torch"))
    except PackageNotFoundError:
        fix = "only to train or export: pip install 'sagdeploy[train]'"
        return Check("WARN", "PyTorch", "not installed", fix)


def _models(repository: Path) -> Iterable[Check]:
    if not repository.is_dir():
        fix = "sagdeploy export RUN, or sagdeploy demo"
        return [Check("WARN", "model repository", f"{repository} is not there", fix)]
    try:
        engine = LocalEngine(repository)
        names = engine.models()
    except SagError as error:
        return [_failed(f"repository {repository}", error)]
    if not names:
        return [Check("WARN", "model repository", f"{repository} is empty", "sagdeploy export RUN")]
    return [_model(engine, name) for name in names]


def _model(engine: Engine, name: str) -> Check:
    try:
        manifest = engine.manifest(name)
        if not engine.is_ready(name):
            return Check("FAIL", f"model {name}", "not ready", "look at the server's log", 6)
    except SagError as error:
        return _failed(f"model {name}", error)
    found = f"version {manifest.version}: {', '.join(manifest.classes)}"
    return Check("PASS", f"model {name}", f"{found}; {engine.description}")


def _server(server: str) -> Iterable[Check]:
    try:
        with closing(TritonEngine(server)) as engine:
            return _served(engine, engine.models())
    except SagError as error:
        return [_failed("server", error)]


def _served(engine: TritonEngine, names: Sequence[str]) -> Sequence[Check]:
    triton = _triton(engine.server_version)
    if not names:
        fix = "it serves no model of sagdeploy"
        return [triton, Check("FAIL", "server", engine.description, fix, 5)]
    return [triton, *(_model(engine, name) for name in names)]


def _triton(found: str) -> Check:
    """Whether the server's version is one without known holes."""
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < TRITON_FLOOR:
        fix = "for development only: older than 26.07, so with known holes"
        return Check("WARN", "Triton", found or "of no known version", fix)
    return Check("PASS", "Triton", found)


def _failed(name: str, error: SagError) -> Check:
    return Check("FAIL", name, str(error), error.hint, error.exit_code)
