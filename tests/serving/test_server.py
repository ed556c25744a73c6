"""The development server starts, says why it does not, and leaves nothing behind."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from sagdeploy.errors import ConfigError, ModelError, RepositoryError
from sagdeploy.serving.environment import server_environment
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.transport import Connections, parse_address
from sagdeploy.serving.triton import TritonEngine
from tests.serving.engine_contract import some_tiles

NAME = "small"
SERVE = """
import sys
from pathlib import Path
from sagdeploy.serving.server import serve
cache = Path(sys.argv[2]) if sys.argv[2] else None
serve(Path(sys.argv[1]), 0, cache=cache, announce=lambda url: print(url, flush=True))
"""


def is_gone(pid: int) -> bool:
    """Whether no process of the server's group is left."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def is_ready(url: str) -> bool:
    """Whether a server at `url` has the model ready."""
    with closing(TritonEngine(url)) as engine:
        return engine.is_ready(NAME)


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    """Whether `what` comes true in time."""
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers keep their temporary files, those of this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once only
    return folder


def traces(scratch: Path) -> set[Path]:
    """What a running server keeps in `scratch`, and in shared memory by the same name."""
    (folder,) = scratch.iterdir()
    return {folder, *Path("/dev/shm").glob(f"{folder.name}*")}


def test_a_server_that_is_killed_is_waited_for(
    repository: Path, server_cache: Path | None, scratch: Path
) -> None:
    tiles = {"tiles": some_tiles(3)}
    with TritonServer(repository, cache=server_cache) as first:
        port, pid = int(first.url.rpartition(":")[2]), first.pid
        left = traces(scratch)
        engine = TritonEngine(first.url)
        expected = engine.infer(NAME, tiles)["probabilities"]
        os.killpg(pid, signal.SIGKILL)
    answers: list[np.ndarray] = []
    asking = threading.Thread(
        target=lambda: answers.append(engine.infer(NAME, tiles)["probabilities"])
    )
    asking.start()
    with TritonServer(repository, port=port, cache=server_cache) as second:
        asking.join(30)
        engine.close()  # Triton waits for connections before it ends
        second_pid = second.pid
        left |= traces(scratch)
    np.testing.assert_array_equal(answers, [expected])
    assert wait_for(lambda: is_gone(pid) and is_gone(second_pid), 5)
    assert not [trace for trace in left if trace.exists()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_well(
    repository: Path, server_cache: Path | None, scratch: Path, number: int
) -> None:
    command = [sys.executable, "-c", SERVE, str(repository), str(server_cache or "")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        assert is_ready(url)
        left = traces(scratch)
        serving.send_signal(number)
        assert serving.wait(20) == 0
    assert not is_ready(url)
    assert not [trace for trace in left if trace.exists()]


def test_the_server_does_not_outlive_a_killed_parent(
    repository: Path, server_cache: Path | None, scratch: Path
) -> None:
    command = [sys.executable, "-c", SERVE, str(repository), str(server_cache or "")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        children = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
        serving.kill()
    assert wait_for(lambda: not is_ready(url), 10)
    assert wait_for(lambda: all(is_gone(int(pid)) for pid in children), 10)
    assert traces(scratch) == {*scratch.iterdir()}  # nobody was left to remove the files


def test_a_graph_that_does_not_fit_is_named(
    repository: Path, tmp_path: Path, server_cache: Path | None
) -> None:
    folder = shutil.copytree(repository / "small_extractor", tmp_path / "small_extractor")
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_UINT8", "TYPE_FP32"))
    with pytest.raises(ModelError, match=r"small_extractor.*configured as TYPE_FP32") as raised:
        TritonServer(tmp_path, cache=server_cache).__enter__()
    assert "\n" not in str(raised.value)


def is_listening(address: str, port: int) -> bool:
    """Whether something answers there."""
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


@pytest.mark.parametrize(("address", "elsewhere"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_listens_where_it_is_told_and_nowhere_else(
    repository: Path, server_cache: Path | None, address: str, elsewhere: bool
) -> None:
    with TritonServer(repository, address=address, cache=server_cache) as server:
        host, _, port = server.url.rpartition(":")
        assert (host, is_ready(server.url)) == ("127.0.0.1", True)
        assert is_listening("127.0.0.2", int(port)) is elsewhere


def test_strangers_may_not_share_memory_with_it(
    repository: Path, server_cache: Path | None
) -> None:
    with (
        TritonServer(repository, address="0.0.0.0", cache=server_cache) as server,
        closing(Connections(parse_address(server.url))) as connections,
    ):
        for path in ("systemsharedmemory/status", "trace/setting", "logging"):
            assert connections.exchange("GET", f"/v2/{path}", timeout_s=5).status == 403, path


@pytest.mark.parametrize("address", ["localhost", "::1", "127.0.0.1:8000", ""])
def test_an_address_that_is_none_is_refused(repository: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="no IPv4 address"):
        TritonServer(repository, address=address).__enter__()


def test_the_command_tells_the_address_and_what_it_is_for(
    repository: Path, server_cache: Path | None, tmp_path: Path
) -> None:
    environment = dict(os.environ)
    if server_cache is not None:
        (tmp_path / "sagdeploy").symlink_to(server_cache.resolve())
        environment["XDG_CACHE_HOME"] = str(tmp_path)
    command = [str(Path(sys.executable).with_name("sagdeploy")), "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--repository", str(repository)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as serving:
        assert serving.stderr is not None
        told = serving.stderr.readline()
        serving.send_signal(signal.SIGINT)
        assert serving.wait(20) == 0
    assert "at 127.0.0.1:" in told
    assert "for development only" in told


def test_a_port_that_is_taken_is_refused(repository: Path, server_cache: Path | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            TritonServer(repository, port=port, cache=server_cache).__enter__()


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="holds no model"):
        TritonServer(tmp_path).__enter__()


def test_a_machine_that_cannot_run_it_is_told_of_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ConfigError, match="aarch64") as raised:
        server_environment(tmp_path)
    assert "docker compose up triton" in raised.value.hint
    assert not list(tmp_path.iterdir())


def test_the_environment_is_built_once(server_cache: Path | None) -> None:
    first, second = (server_environment(server_cache) for _ in range(2))
    assert first == second
    assert first.stub.is_file()


def test_an_environment_that_is_there_is_taken_without_a_lock(server_cache: Path | None) -> None:
    folder = server_environment(server_cache).folder
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        assert server_environment(server_cache).folder == folder
