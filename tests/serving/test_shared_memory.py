"""Requests through shared memory say the same, and leave nothing behind."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import EngineError
from sagdeploy.serving import shared_memory
from sagdeploy.serving.patience import Patience
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.transport import Connections, parse_address
from sagdeploy.serving.triton import TritonEngine
from tests.serving.engine_contract import EngineContract, features_of, some_tiles
from tests.serving.faultserver import MODEL, FaultServer, hang, hang_up, status

TILES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
PATIENCE = Patience(first_s=0.5, retry_s=1.0, attempts=3)
ASK_AND_DIE = """
import os, signal, sys
import numpy as np
from sagdeploy.serving.triton import TritonEngine
tiles = np.zeros((3, 24, 24, 3), np.uint8)
TritonEngine(sys.argv[1]).infer("small_extractor", {"tiles": tiles}, version=1)
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def engine(server: TritonServer) -> Iterator[TritonEngine]:
    """An engine that sends its requests over the wire."""
    engine = TritonEngine(server.url, shares_memory=False)
    yield engine
    engine.close()


class TestTritonEngineWithoutSharedMemory(EngineContract):
    """The contract, which test_triton holds the sharing engine to."""


@pytest.fixture
def sharing() -> Iterator[FaultServer]:
    """A server whose faults a test chooses, which shares memory."""
    with FaultServer() as running:
        running.shares_memory = True
        yield running


def ask(engine: TritonEngine, tiles: np.ndarray = TILES) -> None:
    """One request, whose answer is right."""
    features = engine.infer(MODEL, {"tiles": tiles}, version=1)["features"]
    np.testing.assert_array_equal(features[:, 0], tiles.reshape(len(tiles), -1).min(axis=1))


def regions(pid: int | None = None) -> set[str]:
    """Names in shared memory that a process has given, this one by default."""
    pattern = f"{shared_memory.PREFIX}{pid or os.getpid()}-*"
    return {path.name for path in shared_memory.FOLDER.glob(pattern)}


def known_to(server: TritonServer) -> int:
    """How many regions a real server has open."""
    connections = Connections(parse_address(server.url))
    answer = connections.exchange("GET", "/v2/systemsharedmemory/status", timeout_s=5)
    connections.close()
    return answer.body.count(b'"key"')


def test_a_real_server_opens_regions_and_is_told_to_forget_them(server: TritonServer) -> None:
    engine, before = TritonEngine(server.url), known_to(server)
    tiles = some_tiles(9)
    features = engine.infer("small_extractor", {"tiles": tiles}, version=1)["features"]
    np.testing.assert_allclose(features, features_of(tiles), atol=1e-5)
    assert known_to(server) == before + 1
    assert not regions()
    engine.close()
    assert known_to(server) == before


def test_a_killed_client_leaves_no_name_behind(server: TritonServer) -> None:
    command = [sys.executable, "-c", ASK_AND_DIE, server.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert not regions(int(ran.stdout))


def test_a_restarted_server_is_asked_over_the_wire_and_then_shares_again(
    repository: Path, server_cache: Path | None
) -> None:
    tiles = {"tiles": some_tiles(3)}
    with TritonServer(repository, cache=server_cache) as first:
        engine = TritonEngine(first.url)
        expected = engine.infer("small", tiles)["logits"]
        os.killpg(first.pid, signal.SIGKILL)
    with TritonServer(
        repository, port=int(first.url.rpartition(":")[2]), cache=server_cache
    ) as second:
        for known in (0, 1):
            np.testing.assert_array_equal(engine.infer("small", tiles)["logits"], expected)
            assert known_to(second) == known
        engine.close()


def test_a_region_serves_one_request_after_the_other(sharing: FaultServer) -> None:
    engine = TritonEngine(sharing.url)
    for size in (1, 5, 3):
        ask(engine, TILES[:size])
    engine.close()
    assert len(set(sharing.shared)) == 1
    assert sharing.told == ["register", "unregister"]


def test_a_larger_request_gets_a_larger_region(
    sharing: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "GRAIN", 64)
    engine = TritonEngine(sharing.url)
    ask(engine, TILES[:1])
    ask(engine)
    engine.close()
    assert sharing.told == ["register", "unregister", "register", "unregister"]


def test_what_is_larger_than_any_region_goes_over_the_wire(
    sharing: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "LARGEST", TILES.nbytes - 1)
    engine = TritonEngine(sharing.url)
    ask(engine)
    engine.close()
    assert (sharing.shared, sharing.told) == ([None], [])


def test_a_server_that_does_not_share_is_asked_only_once_to() -> None:
    with FaultServer() as server:
        engine = TritonEngine(server.url)
        ask(engine)
        ask(engine)
        engine.close()
        assert (server.shared, server.told) == ([None, None], ["register"])
    assert not regions()


def test_memory_that_is_full_is_no_fault(
    sharing: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*args: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    engine = TritonEngine(sharing.url)
    ask(engine)
    engine.close()
    assert (sharing.shared, sharing.told) == ([None], [])
    assert not regions()


def test_nothing_is_shared_across_a_network() -> None:
    engine = TritonEngine("https://triton.hospital")
    with engine._regions.lend(100) as region:
        assert region is None


def test_a_region_that_the_server_has_lost_is_replaced(sharing: FaultServer) -> None:
    engine = TritonEngine(sharing.url)
    ask(engine)
    sharing.faults.append(status(400, "Unable to find shared memory region: 'x'"))
    ask(engine)
    ask(engine)
    engine.close()
    first, over_the_wire, third = sharing.shared
    assert over_the_wire is None
    assert first != third
    assert sharing.told == ["register", "register", "unregister"]


@pytest.mark.parametrize("fault", [hang, hang_up])
def test_memory_that_may_still_be_read_is_neither_written_nor_unmapped(
    sharing: FaultServer, fault: object
) -> None:
    engine = TritonEngine(sharing.url, timeout_s=0.3, patience=PATIENCE)
    sharing.faults.append(fault)  # type: ignore[arg-type]
    ask(engine)
    engine.close()
    assert sharing.shared == [None]
    assert sharing.told == ["register"]
    assert not regions()


def test_a_refusal_is_an_answer_and_the_region_stays(sharing: FaultServer) -> None:
    engine = TritonEngine(sharing.url, patience=PATIENCE)
    sharing.faults.extend([status(403, "restricted"), status(500, "out of memory")])
    with pytest.raises(EngineError, match="restricted"):
        ask(engine)
    ask(engine)
    engine.close()
    assert sharing.told == ["register", "unregister"]
