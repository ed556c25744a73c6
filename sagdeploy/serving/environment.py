"""The development server's own Python environment, built once in the user's cache.

The server comes as a wheel, which fixes an old numpy. In an environment of its own it
leaves the user's packages alone.
"""

import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

import sagdeploy.serving.backend
from sagdeploy.errors import ConfigError, EngineError, MissingExtraError
from sagdeploy.files import PARTIAL_PREFIX

logger = logging.getLogger(__name__)

RELEASE = "2.51"
"""Of tritonserver; NVIDIA's 24.10."""
SERVER = "nvidia-pytriton==0.7.0"
"""Without what it depends on: only its tritonserver is run."""
BACKEND = ("numpy>=2,<3", "onnxruntime>=1.22")
PYTHONS = ((3, 11), (3, 13))
"""First and last for which the wheel has a Python stub, of those that run sagdeploy."""
GLIBC = (2, 35)
INSTALL_S = 1800.0
DOCKER = "run NVIDIA's own server instead: docker compose up triton"
_BAD_ARGUMENTS = 1
"""What the stub returns when it could start, and was given nothing to do."""


@dataclass(frozen=True, slots=True)
class ServerEnvironment:
    """A virtual environment that holds tritonserver and ONNX Runtime."""

    folder: Path

    @property
    def bin(self) -> Path:
        """Where its `python` is."""
        return self.folder / "bin"

    @property
    def triton(self) -> Path:
        """What the wheel unpacks to: `bin`, `backends` and `python_backend_stubs`."""
        return self.folder / "lib" / _python() / "site-packages" / "pytriton" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The program in which Triton runs a Python backend."""
        version = _python().removeprefix("python")
        return self.triton / "python_backend_stubs" / version / "triton_python_backend_stub"

    def library_path(self) -> str:
        """LD_LIBRARY_PATH with which the stub starts; ConfigError where nothing helps.

        The stub needs libpython. A server whose stub cannot start never gets ready, and
        does not end either: so it is tried before.
        """
        folders = ["", str(sysconfig.get_config_var("LIBDIR")), f"{sys.base_prefix}/lib"]
        reason = ""
        for folder in dict.fromkeys(folders):
            ended = subprocess.run(
                [self.stub], env={"LD_LIBRARY_PATH": folder}, capture_output=True, check=False
            )
            if ended.returncode == _BAD_ARGUMENTS:
                return folder
            reason = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2] or reason
        raise ConfigError(
            f"the development server cannot start its Python stub: {reason}",
            hint=f"install lib{_python()}, or {DOCKER}",
        )

    def lay_out_backends(self, folder: Path) -> None:
        """Write a backend folder: Triton's for Python, and ours by the name of Triton's for ONNX.

        The library is a copy because Triton refuses one that lies elsewhere; the stub is a
        link because it finds its own libraries beside where it really lies.
        """
        python, onnxruntime = folder / "python", folder / "onnxruntime"
        shutil.copytree(self.triton / "backends" / "python", python)
        (python / self.stub.name).symlink_to(self.stub)
        onnxruntime.mkdir()
        shutil.copy(Path(sagdeploy.serving.backend.__path__[0]) / "model.py", onnxruntime)


def server_environment(cache: Path | None = None) -> ServerEnvironment:
    """The environment, built now where it is not there yet.

    cache: the folder that keeps it, the user's cache by default
    """
    _check_machine()
    cache = cache or _user_cache()
    key = hashlib.sha256(" ".join((SERVER, *BACKEND)).encode()).hexdigest()[:8]
    folder = cache / f"triton-{RELEASE}-{_python()}-{key}"
    if not folder.is_dir():  # a cache that has it may be read-only, as in an image
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock", timeout=INSTALL_S):
            if not folder.is_dir():
                _build(folder)
    return ServerEnvironment(folder)


def _check_machine() -> None:
    """ConfigError where the wheel's server cannot run."""
    glibc = tuple(int(part) for part in platform.libc_ver()[1].split(".") if part.isdecimal())
    problem = ""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        problem = f"it is for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    elif glibc < GLIBC:
        problem = f"it needs glibc 2.35, this system has {platform.libc_ver()[1] or 'another'}"
    elif not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        problem = f"it knows Python 3.11 to 3.13, this is {platform.python_version()}"
    if problem:
        raise ConfigError(f"the development server cannot run here: {problem}", hint=DOCKER)


def _user_cache() -> Path:
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise MissingExtraError(
            "sagdeploy serve needs platformdirs", hint="pip install 'sagdeploy[serve]'"
        ) from error
    return user_cache_path("sagdeploy")


def _build(folder: Path) -> None:
    """Make the environment under another name, and give it its own when it is whole."""
    logger.warning("installing tritonserver %s into %s, once, 350 MB", RELEASE, folder)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=folder.parent))
    try:
        _run(sys.executable, "-m", "venv", str(partial))
        pip = [str(partial / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run(*pip, "install", "--quiet", "--only-binary=:all:", *BACKEND)
        _run(*pip, "install", "--quiet", "--only-binary=:all:", "--no-deps", SERVER)
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        told = (error.stderr or error.output or b"").decode(errors="replace").strip()
        raise EngineError(
            f"the development server could not be installed: {told.splitlines()[-1:] or error}",
            hint=f"it is downloaded once, from the Python package index; or {DOCKER}",
        ) from error


def _python() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"
