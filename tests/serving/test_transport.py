"""Addresses, passwords and certificates: what goes over the wire, and what is never shown."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.serving.patience import Patience
from sagdeploy.serving.transport import parse_address
from sagdeploy.serving.triton import TritonEngine
from tests.serving.faultserver import MODEL, FaultServer, Handler, drip, hang_up

TILES = np.zeros((3, 4, 4, 3), np.uint8)
TIMEOUT_S = 0.3
PATIENCE = Patience(first_s=0.5, retry_s=1.0, attempts=3)
PASSWORD = "canary-in-a-coal-mine"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate to test with")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a"]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, *made, *name, "-keyout", str(path), "-out", str(path.with_name("c"))]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_name("c").read_bytes())
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[FaultServer]:
    """A server of https."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(context) as running:
        yield running


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("localhost:8000", "localhost", 8000, False),
        ("localhost", "localhost", 8000, False),
        ("http://triton:9000", "triton", 9000, False),
        ("http://triton", "triton", 80, False),
        ("https://triton.hospital/diagnosis/", "triton.hospital", 443, True),
        ("[::1]:8000", "::1", 8000, False),
    ],
)
def test_addresses(url: str, host: str, port: int, tls: bool) -> None:
    address = parse_address(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)
    assert address.is_loopback == (host in ("localhost", "::1"))


@pytest.mark.parametrize("url", ["", "ftp://triton", "triton:port", "triton:99999", "//", "a:1?b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no server address"):
        TritonEngine(url)


def test_the_password_is_sent_and_never_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    login = f"hospital:{PASSWORD}@"
    sent = []

    def look(handler: Handler) -> None:
        sent.append(handler.headers["Authorization"])
        handler.answer_json(500, {"error": "no"})

    with FaultServer() as server:
        server.faults.extend([look] * 3)
        engine = TritonEngine(f"http://{login}{server.url}", patience=PATIENCE)
        with pytest.raises(EngineError) as raised:
            engine.infer(MODEL, {"tiles": TILES})
        engine.close()
    with pytest.raises(ConfigError) as malformed:
        TritonEngine(f"http://{login}triton:port")
    assert sent[0].startswith("Basic ")
    shown = [repr(engine._connections.address), engine.description, caplog.text]
    shown += [str(error.value) + error.value.hint for error in (raised, malformed)]
    assert PASSWORD not in "".join(shown)


def test_plain_http_across_a_network_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    TritonEngine("triton.hospital:8000")
    assert "unencrypted" in caplog.text


def test_a_trusted_certificate_is_enough_and_the_deadline_holds(
    tls_server: FaultServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    engine = TritonEngine(f"https://{tls_server.url}", timeout_s=1, patience=PATIENCE)
    tls_server.faults.extend([drip, hang_up])
    outputs = engine.infer(MODEL, {"tiles": TILES}, version=1)
    assert outputs["features"].shape == (3, 2)
    engine.close()


def test_a_certificate_that_nobody_signed_is_refused_at_once(tls_server: FaultServer) -> None:
    engine = TritonEngine(f"https://{tls_server.url}")
    with pytest.raises(EngineError, match="certificate is not to be trusted") as raised:
        engine.models()
    assert "SSL_CERT_FILE" in raised.value.hint
    assert not tls_server.asked


def test_a_handshake_that_never_ends_is_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        engine = TritonEngine(
            f"https://127.0.0.1:{port}", timeout_s=TIMEOUT_S, patience=Patience(first_s=0)
        )
        with pytest.raises(EngineError, match=r"no whole answer within 0\.3 s"):
            engine.models()
