"""A real tritonserver without Docker: for development, tests and laptops, on loopback.

The server is an old release, 24.10, without the security fixes since. It listens on another
address only where it is told to, which is for containers, whose ports are published on the
host's loopback; `docker compose up triton` is what a hospital runs.
"""

import ipaddress
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

from sagdeploy.errors import ConfigError, EngineError, ModelError, RepositoryError
from sagdeploy.serving.environment import DOCKER, ServerEnvironment, server_environment
from sagdeploy.serving.transport import Connections, parse_address

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
START_S = 300.0
STOP_S = 10.0
"""Triton waits half of it for requests and models, and is killed after the whole."""
POLL_S = 0.1
SHARED_MEMORY = Path("/dev/shm")
LAUNCH = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""
"""Becomes the server, which then ends with its parent, even a killed one."""
LOG_LINE = re.compile(r'E\d{4} \S+ +\d+ \S+\] "?(?P<text>.*?)(\\n.*|"?)')
CLOSED = "shared-memory,trace,logging"
"""What only whoever holds a key may ask of a server that others can reach; nobody is told one."""
HARMLESS = ("CudaDriverHelper has not been initialized", "unable to create stream")
"""Errors that Triton logs wherever there is no GPU."""


class TritonServer:
    """A tritonserver that serves a model repository while the block lasts.

    Start it in a thread that outlives it: the server ends with the thread that started it.
    """

    def __init__(
        self,
        repository: Path,
        *,
        port: int = 0,
        address: str = HOST,
        cache: Path | None = None,
        is_strict: bool = True,
    ) -> None:
        """A server that is not started yet.

        port:      0 for any that is free
        address:   an IPv4 address of this machine, or 0.0.0.0 for all of them
        is_strict: a model that does not load ends the server; else the others are served
        """
        self._repository = repository
        self._port = port
        self._address = address
        self._cache = cache
        self._is_strict = is_strict
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        _check_repository(self._repository)
        _check_address(self._address)
        environment = server_environment(self._cache)
        self._port = _free_port(self._address, self._port)
        try:
            self._launch(environment)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """`127.0.0.1:8000`, as a TritonEngine on this machine takes it."""
        is_any = ipaddress.IPv4Address(self._address).is_unspecified
        return f"{HOST if is_any else self._address}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the running server, which leads a process group of its own."""
        assert self._process is not None
        return self._process.pid

    def wait(self) -> None:
        """Block while the server runs; EngineError once it has ended by itself."""
        assert self._process is not None
        while self._process.poll() is None:  # a signal just before a wait without end is lost
            time.sleep(POLL_S)
        raise self._death()

    def stop(self) -> None:
        """End the server, and leave no process, shared memory or file behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._folder is not None:
            for region in SHARED_MEMORY.glob(f"{self._folder.name}*"):
                region.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _launch(self, environment: ServerEnvironment) -> None:
        libraries = environment.library_path()
        self._folder = Path(tempfile.mkdtemp(prefix="sagdeploy-triton-"))
        environment.lay_out_backends(self._folder / "backends")
        launch = [str(environment.bin / "python"), "-I", "-c", LAUNCH, str(os.getpid())]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*launch, str(environment.triton / "bin" / "tritonserver"), *self._arguments()],
                # Python's own and the user's variables stay out; the stub takes its packages
                # from the first python on the path.
                env={
                    "PATH": f"{environment.bin}:/usr/bin:/bin",
                    "LD_LIBRARY_PATH": libraries,
                    "ORT_DISABLE_TELEMETRY": "1",  # of ONNX Runtime, to Microsoft
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _arguments(self) -> list[str]:
        assert self._folder is not None
        strict = str(self._is_strict).lower()
        is_ours = ipaddress.IPv4Address(self._address).is_loopback
        return [
            *(() if is_ours else (f"--http-restricted-api={CLOSED}:key={secrets.token_hex()}",)),
            f"--model-repository={self._repository.resolve()}",
            f"--backend-directory={self._folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._folder.name}",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            f"--strict-readiness={strict}",
            f"--exit-on-error={strict}",
            f"--http-address={self._address}",
            f"--http-port={self._port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
            "--allow-gpu-metrics=false",
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",
            "--pinned-memory-pool-byte-size=0",
            f"--exit-timeout-secs={STOP_S / 2:.0f}",
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        with closing(Connections(parse_address(self.url))) as connections:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise self._death()
                with suppress(EngineError):  # not listening yet
                    if connections.exchange("GET", "/v2/health/ready", timeout_s=1).status == 200:
                        return
                time.sleep(POLL_S)
        raise EngineError(f"the server is not ready after {START_S:g} s: {self._told()}")

    def _death(self) -> EngineError | ModelError:
        told = self._told()
        if "failed to load" in told or "Poll failed" in told:
            return ModelError(
                f"{self._repository}: Triton does not load it: {told}",
                hint="export the model again, or mend its config.pbtxt",
            )
        return EngineError(f"the server has ended by itself: {told}", hint=DOCKER)

    def _told(self) -> str:
        """The first errors in the server's log, in one line."""
        assert self._folder is not None
        lines = (self._folder / "log").read_text(errors="replace").splitlines()
        logger.debug("the server's log ends with:\n%s", "\n".join(lines[-40:]))
        found = (match["text"] for line in lines if (match := LOG_LINE.fullmatch(line)))
        errors = [text for text in found if not text.startswith(HARMLESS)]
        return "; ".join(errors[:3])[:500] or "its log names no error"


def serve(
    repository: Path,
    port: int = 8000,
    *,
    announce: Callable[[str], None],
    address: str = HOST,
    cache: Path | None = None,
) -> None:
    """Serve a repository until Ctrl-C or SIGTERM; `announce` is told the address when ready."""
    with (
        suppress(KeyboardInterrupt),
        _ended_by(signal.SIGTERM),
        TritonServer(repository, port=port, address=address, cache=cache) as server,
    ):
        announce(server.url)
        server.wait()


def _check_repository(repository: Path) -> None:
    if not any(repository.glob("*/config.pbtxt")):
        raise RepositoryError(
            f"{repository}: holds no model", hint="write one with `sagdeploy export`"
        )


def _check_address(address: str) -> None:
    """ConfigError where it is no IPv4 address; a warning where others can reach it."""
    try:
        is_loopback = ipaddress.IPv4Address(address).is_loopback
    except ValueError as error:
        raise ConfigError(
            f"{address!r} is no IPv4 address", hint="leave out --address to stay on loopback"
        ) from error
    if not is_loopback:
        logger.warning("listening on %s, without TLS or password: inside a container only", address)


def _free_port(address: str, port: int) -> int:
    """`port`, or any where it is 0; ConfigError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} of {address} cannot be used: {error}", hint="choose another --port"
            ) from error
        free: int = probe.getsockname()[1]
        return free


@contextmanager
def _ended_by(number: signal.Signals) -> Iterator[None]:
    """A block that a signal ends as Ctrl-C does."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)
