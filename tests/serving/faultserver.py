"""A small server of the KServe v2 protocol that answers well, or as a test tells it to.

It serves one model, `means`: tiles uint8 [N, 4, 4, 3] -> features float32 [N, 2], the
smallest and the mean value of each tile.
"""

import json
import math
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

MODEL = "means"
SIGNATURE = {
    "name": MODEL,
    "versions": ["1", "2"],
    "inputs": [{"name": "tiles", "datatype": "UINT8", "shape": [-1, 4, 4, 3]}],
    "outputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 2]}],
}
HEADER = "Inference-Header-Content-Length"
REGIONS = "/v2/systemsharedmemory/region/"


class Handler(BaseHTTPRequestHandler):
    """Answers one request; the server's next fault, if there is one, answers in its place."""

    protocol_version = "HTTP/1.1"
    server: "FaultServer"
    disable_nagle_algorithm: ClassVar[bool] = True

    def do_GET(self) -> None:
        """Server, model and configuration."""
        self.server.asked.append(self.path)
        answers: dict[str, Any] = {
            "/v2": {"name": "pathology-07", "version": self.server.version},
            f"/v2/models/{MODEL}": SIGNATURE,
            f"/v2/models/{MODEL}/versions/1": SIGNATURE,
            f"/v2/models/{MODEL}/config": {"name": MODEL},
        }
        if self.path == f"/v2/models/{MODEL}/ready":
            self.answer(200 if self.server.is_ready else 400, b"")
        elif self.path in answers:
            self.answer_json(200, answers[self.path])
        else:
            self.answer_json(404, {"error": f"Request for unknown model: '{self.path}'"})

    def do_POST(self) -> None:
        """Inference, or a fault; or about shared memory, which is no matter of faults."""
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith(REGIONS):
            self.share()
            return
        self.server.asked.append(self.path)
        fault = self.server.faults.popleft() if self.server.faults else infer
        fault(self)

    def share(self) -> None:
        """Open or forget a region, where the server shares memory."""
        name, action = self.path.removeprefix(REGIONS).split("/")
        self.server.told.append(action)
        if not self.server.shares_memory:
            self.answer_json(403, {"error": "This API is restricted"})
            return
        if action == "register":
            key = json.loads(self.body)["key"]
            self.server.regions[name] = np.memmap(f"/dev/shm{key}", np.uint8, "r")
        else:
            del self.server.regions[name]
        self.answer(200, b"")

    def answer_json(
        self, status: int, value: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """One JSON answer."""
        self.answer(status, json.dumps(value).encode(), headers)

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        """One answer; `length` where it is to lie about its own."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer_tensor(self, array: NDArray[Any], **changes: Any) -> None:
        """The features, some fields of their description changed."""
        datatype = {"float32": "FP32", "float64": "FP64"}[array.dtype.name]
        output = {
            "name": "features",
            "datatype": datatype,
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        version = "1" if "/versions/" in self.path else "2"
        answer = {"model_version": version, "outputs": [output | changes]}
        header = json.dumps(answer | changes.pop("answer", {})).encode()
        self.answer(200, header + array.tobytes(), {HEADER: str(len(header))})

    def features(self) -> NDArray[np.float32]:
        """What the model says to the tiles of this request."""
        start = int(self.headers.get(HEADER, len(self.body)))
        given = json.loads(self.body[:start])["inputs"][0]
        region = given["parameters"].get("shared_memory_region")
        self.server.shared.append(region)
        sent = np.frombuffer(self.body[start:], np.uint8)
        data = self.server.regions[region] if region else sent
        tiles = data[: math.prod(given["shape"])].reshape(given["shape"][0], -1)
        return np.stack([tiles.min(axis=1), tiles.mean(axis=1)], axis=1).astype(np.float32)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


Fault = Callable[[Handler], None]


class FaultServer(ThreadingHTTPServer):
    """Serves on a free port of loopback while the block lasts."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is left to the thread of each connection.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.faults: deque[Fault] = deque()
        """What answers the next inference requests, in turn; then they are answered well."""
        self.asked: list[str] = []
        """Path of each request, in turn."""
        self.version = "26.07"
        self.is_ready = True
        self.shares_memory = False
        self.regions: dict[str, NDArray[np.uint8]] = {}
        """Memory that clients share with it, by name."""
        self.told: list[str] = []
        """What it was told of regions, in turn: `register` or `unregister`."""
        self.shared: list[str | None] = []
        """The region of each request that it answered, None where it came over the wire."""
        self.is_over = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.is_over.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up on faults; that is no news."""


def infer(handler: Handler) -> None:
    """A good answer."""
    handler.answer_tensor(handler.features())


def status(code: int, error: str = "", headers: Mapping[str, str] | None = None) -> Fault:
    """A refusal in Triton's words."""
    return lambda handler: handler.answer_json(code, {"error": error}, headers)


def slow(handler: Handler) -> None:
    """A good answer, late."""
    time.sleep(0.02)
    infer(handler)


def hang(handler: Handler) -> None:
    """No answer at all, and the connection stays open."""
    handler.server.is_over.wait(10)


def drip(handler: Handler) -> None:
    """A byte of the body now and then, each well within any timeout between two bytes."""
    _drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x" * 1000)


def drip_headers(handler: Handler) -> None:
    """The same of the headers."""
    _drip(handler, b"HTTP/1.1 200 OK\r\n", b"X-Slow: 1\r\n" * 100)


def _drip(handler: Handler, at_once: bytes, slowly: bytes) -> None:
    handler.wfile.write(at_once)
    for byte in slowly:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.02)


def hang_up(handler: Handler) -> None:
    """The connection is closed without an answer."""
    handler.close_connection = True


def truncate(handler: Handler) -> None:
    """Half of the body that was announced."""
    handler.answer(200, b"{", {HEADER: "1"}, length=1000)
    handler.close_connection = True


def say(body: bytes, headers: Mapping[str, str] | None = None, code: int = 200) -> Fault:
    """Any body."""
    return lambda handler: handler.answer(code, body, headers)


def tensor(array: NDArray[Any], **changes: Any) -> Fault:
    """Other features than were asked for."""
    return lambda handler: handler.answer_tensor(array, **changes)
