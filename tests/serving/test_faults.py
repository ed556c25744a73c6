"""What a server may do to a client, and that the client answers with numbers or one line."""

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.patience import Patience
from sagdeploy.serving.triton import TritonEngine
from tests.serving.faultserver import (
    HEADER,
    MODEL,
    Fault,
    FaultServer,
    drip,
    drip_headers,
    hang,
    hang_up,
    say,
    status,
    tensor,
    truncate,
)

TILES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
FEATURES = np.stack(
    [TILES.reshape(5, -1).min(axis=1), TILES.reshape(5, -1).mean(axis=1)], axis=1
).astype(np.float32)
TIMEOUT_S = 0.3
PATIENCE = Patience(first_s=0.5, retry_s=1.0, attempts=3)
TWO = np.ones((5, 2), np.float32)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A server whose faults a test chooses."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def engine(server: FaultServer) -> Iterator[TritonEngine]:
    """An engine that has little time and patience."""
    engine = TritonEngine(server.url, timeout_s=TIMEOUT_S, patience=PATIENCE)
    yield engine
    engine.close()


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_a_good_server_is_asked_once(server: FaultServer, engine: TritonEngine) -> None:
    outputs = engine.infer(MODEL, {"tiles": TILES}, version=1)
    np.testing.assert_array_equal(outputs["features"], FEATURES)
    path = f"/v2/models/{MODEL}/versions/1"
    assert server.asked == [path, f"{path}/infer"]


@pytest.mark.parametrize(
    "faults",
    [
        [status(500, "out of memory")],
        [status(500, "out of memory"), status(502)],
        [status(503, "Request for unknown model: 'means' version 1 is not at ready state")],
        [status(404, "Request for unknown model: 'means' has no available versions")],
        [say(b"<html>busy</html>", code=503)],
        [status(503, "", {"Retry-After": "0"}), status(429)],
        [hang_up, hang_up, hang_up],  # lost connections do not count as attempts
        [truncate],
        [hang],
        [drip],
        [drip_headers],
    ],
)
def test_a_passing_fault_is_outlasted(
    server: FaultServer, engine: TritonEngine, faults: list[Fault]
) -> None:
    server.faults.extend(faults)
    outputs = engine.infer(MODEL, {"tiles": TILES}, version=1)
    np.testing.assert_array_equal(outputs["features"], FEATURES)
    assert server.asked.count(f"/v2/models/{MODEL}/versions/1/infer") == len(faults) + 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(500, "CUDA out\nof memory"), r"CUDA out of memory \(asked 3 times\)"),
        (say(b"<html>", code=502), "status 502, not in the words of Triton"),
        (hang, "no whole answer within 0.3 s"),
        (drip, "no whole answer within 0.3 s"),
        (drip_headers, "no whole answer within 0.3 s"),
        (hang_up, "closed connection without response"),
        (truncate, "IncompleteRead"),
    ],
)
def test_a_lasting_fault_ends_soon_as_one_line(
    server: FaultServer, engine: TritonEngine, fault: Fault, message: str
) -> None:
    server.faults.extend([fault] * 50)
    started = time.monotonic()
    with pytest.raises(EngineError, match=message) as raised:
        engine.infer(MODEL, {"tiles": TILES}, version=1)
    assert time.monotonic() - started < PATIENCE.retry_s + 2 * TIMEOUT_S + 0.5
    assert str(raised.value).startswith(server.url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (say(b"{", {HEADER: "1"}), "Invalid JSON"),
        (say(b"[]", {HEADER: "2"}), "not what Triton says"),
        (say(b"\xff\xfe\x00", {HEADER: "3"}), "not what Triton says"),
        (say(b"{}"), "does not tell where its tensors begin"),
        (say(b"{}", {HEADER: "99"}), "does not tell where its tensors begin"),
        (say(b"{}", {HEADER: "-1"}), "does not tell where its tensors begin"),
        (tensor(TWO, name="faetures"), "lacks the output 'features'"),
        (tensor(TWO[:, :1].copy()), r"\[5, 1\], where .* \[-1, 2\] was due"),
        (tensor(TWO.astype(np.float64)), "FP64"),
        (tensor(TWO, datatype="BYTES"), "no array of numbers"),
        (tensor(TWO, datatype="COMPLEX"), "no array of numbers"),
        (tensor(TWO, shape=[6, 2]), "40 bytes"),
        (tensor(TWO, shape=[-5, -2]), "shape"),
        (tensor(TWO, shape=[4, 2], parameters={"binary_data_size": 32}), "not those it announces"),
        (tensor(TWO, parameters={}), "binary_data_size"),
        (tensor(np.full((5, 2), np.nan, np.float32)), "not finite"),
        (tensor(np.full((5, 2), -np.inf, np.float32)), "not finite"),
        (tensor(TWO, answer={"model_version": "2"}), "version 2 answered, not 1"),
        (say(b"moved", {"Location": "http://169.254.169.254/"}, 302), "status 302"),
        (status(403, "This API is restricted"), "restricted"),
        (status(413, "too large"), "too large"),
        (say(b"<html>not here</html>", code=404), "not in the words of Triton"),
    ],
)
def test_nonsense_is_refused_at_once(
    server: FaultServer, engine: TritonEngine, fault: Fault, message: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(EngineError, match=message) as raised:
        engine.infer(MODEL, {"tiles": TILES}, version=1)
    assert raised.value.exit_code == 6
    assert str(raised.value).startswith(server.url)
    assert "\n" not in str(raised.value)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(400, "unexpected shape for input 'tiles'"), "unexpected shape"),
        (status(404, "Request for unknown model: 'means' version 1 is not found"), "not found"),
    ],
)
def test_a_model_that_does_not_fit_is_the_models_fault(
    server: FaultServer, engine: TritonEngine, fault: Fault, message: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(ModelError, match=message) as raised:
        engine.infer(MODEL, {"tiles": TILES}, version=1)
    assert raised.value.exit_code == 5
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"tiles": TILES[:0]}, "empty"),
        ({"tiles": TILES[:, :, :3]}, r"\[5, 4, 3, 3\]"),
        ({"tiles": TILES[0]}, r"\[4, 4, 3\]"),
        ({"tiles": TILES.astype(np.float32)}, "FP32"),
        ({"tiles": TILES.astype(np.complex64)}, "complex64"),
        ({"features": FEATURES}, "takes tiles, not features"),
        ({}, "takes tiles, not nothing"),
    ],
)
def test_what_the_model_does_not_take_is_not_sent(
    server: FaultServer, engine: TritonEngine, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        engine.infer(MODEL, inputs, version=1)
    assert len(server.asked) == 1


def test_the_server_says_how_long_to_wait(server: FaultServer, engine: TritonEngine) -> None:
    server.faults.append(status(503, "", {"Retry-After": "1"}))
    started = time.monotonic()
    with pytest.raises(EngineError):  # longer than it will wait
        engine.infer(MODEL, {"tiles": TILES})
    assert time.monotonic() - started < 0.5
    patient = TritonEngine(server.url, patience=Patience(retry_s=5))
    server.faults.append(status(503, "", {"Retry-After": "1"}))
    patient.infer(MODEL, {"tiles": TILES})
    patient.close()
    assert time.monotonic() - started > 1


def test_nobody_there_is_found_out_soon() -> None:
    url = f"127.0.0.1:{closed_port()}"
    engine = TritonEngine(url, patience=PATIENCE)
    started = time.monotonic()
    with pytest.raises(
        EngineError, match=rf"{url}: Connection refused \(asked \d+ times\)"
    ) as raised:
        engine.manifest(MODEL)
    assert raised.value.hint
    assert 0.1 < time.monotonic() - started < PATIENCE.first_s + 0.5
    assert engine.description == f"Triton at {url}"
    assert not engine.is_ready(MODEL)


def test_a_host_without_a_name_is_one_line() -> None:
    engine = TritonEngine("nowhere.invalid:1", patience=Patience(first_s=0))
    with pytest.raises(EngineError, match=r"^nowhere\.invalid:1: .+") as raised:
        engine.models()
    assert "\n" not in str(raised.value)


def test_readiness_is_what_the_server_says(server: FaultServer, engine: TritonEngine) -> None:
    assert engine.is_ready(MODEL)
    assert not engine.is_ready("another")
    server.is_ready = False
    assert not engine.is_ready(MODEL)
    assert engine.description == f"Triton 26.07 at {server.url}"


def test_the_name_is_not_that_of_a_machine(engine: TritonEngine) -> None:
    assert engine.name == "Triton 26.07"


def test_a_model_without_manifest_is_refused(engine: TritonEngine) -> None:
    with pytest.raises(ModelError, match="has no manifest"):
        engine.manifest(MODEL)


def test_closing_ends_the_waiting(server: FaultServer) -> None:
    engine = TritonEngine(f"127.0.0.1:{closed_port()}", patience=Patience(first_s=60))
    timer = threading.Timer(0.3, engine.close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(EngineError):
        engine.models()
    assert time.monotonic() - started < 5
    timer.join()


def test_threads_that_come_and_go_leave_nothing_behind(
    server: FaultServer, engine: TritonEngine
) -> None:
    def ask() -> None:
        engine.infer(MODEL, {"tiles": TILES}, version=1)

    for _ in range(20):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(engine._connections._idle) == 1


def test_many_threads_get_each_their_own_answer(engine: TritonEngine) -> None:
    failures = []

    def ask(seed: int) -> None:
        tiles = np.random.default_rng(seed).integers(0, 256, (seed + 1, 4, 4, 3), dtype=np.uint8)
        for _ in range(5):
            outputs = engine.infer(MODEL, {"tiles": tiles}, version=1)
            if not np.array_equal(outputs["features"][:, 0], tiles.reshape(seed + 1, -1).min(1)):
                failures.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
