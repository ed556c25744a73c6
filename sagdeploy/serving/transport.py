"""HTTP exchanges with a Triton server: each whole and in time, or not at all.

tritonclient's own transport has no deadline for a whole request (a server that drips holds it
for ever), hides the headers of an answer, and stands on gevent, which leaves two files and a
thread behind for each thread that used it. So tritonclient writes and reads the bodies, and
the standard library carries them. Redirects are not followed and proxies not looked for.
"""

import base64
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from sagdeploy.errors import ConfigError, EngineError
from sagdeploy.serving.patience import TransientError

CONNECT_S = 10.0
LARGEST_ANSWER = 1 << 30
"""Bytes; the attention of a million tiles is 4 MB."""
PORTS = {"": 8000, "http": 80, "https": 443}
HINT = "is the server running? `sagdeploy doctor --server ...` looks"


class NoAnswerError(TransientError):
    """The connection was lost, or the time was up, before an answer was whole."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens; as text without its password."""

    host: str
    port: int
    tls: bool = False
    path: str = ""
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https://' if self.tls else ''}{host}:{self.port}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent stays on this machine."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float:
        """Seconds that the server asks to wait, given as such or as a date; else 0."""
        text = self.headers.get("Retry-After", "")
        if text.isdecimal():
            return float(text)
        with suppress(ValueError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        return 0.0


def parse_address(url: str) -> Address:
    """The address in `host:port`, `http://...` or `https://...`, with or without a password."""
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        port = parts.port
    except ValueError:
        raise _no_address(url) from None  # its text may hold the password
    if parts.scheme not in PORTS or not parts.hostname or parts.query or parts.fragment:
        raise _no_address(url)
    authorization = ""
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Address(
        parts.hostname,
        PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "https",
        path=parts.path.rstrip("/"),
        authorization=authorization,
    )


class Connections:
    """Connections to one server, kept open between exchanges. For any number of threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._tls = ssl.create_default_context() if address.tls else None
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def exchange(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Answer:
        """The whole answer to one request, within `timeout_s` of now.

        NoAnswerError where there is none, EngineError where the certificate is not to be trusted.
        """
        deadline = time.monotonic() + timeout_s
        connection = None
        try:
            connection = self._idle_one() or self._open(min(timeout_s, CONNECT_S))
            with _hung_up_at(deadline, connection.sock):
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                _send(connection, method, self.address.path + path, body, self._all(headers))
                answer, stays_open = _receive(connection)
        except (OSError, http.client.HTTPException) as error:
            if connection is not None:
                connection.close()
            raise self._fault(error, late=time.monotonic() >= deadline, s=timeout_s) from error
        self._put_back(connection, stays_open)
        return answer

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _idle_one(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _put_back(self, connection: http.client.HTTPConnection, stays_open: bool) -> None:
        if stays_open:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()

    def _open(self, timeout_s: float) -> http.client.HTTPConnection:
        address = self.address
        sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
        sock.settimeout(None)  # from here on the deadline of each exchange holds
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            # The handshake comes later, under the deadline.
            sock = self._tls.wrap_socket(
                sock, server_hostname=address.host, do_handshake_on_connect=False
            )
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.sock = sock
        connection.auto_open = 0
        return connection

    def _all(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        login = self.address.authorization
        return {**(headers or {}), **({"Authorization": login} if login else {})}

    def _fault(self, error: Exception, *, late: bool, s: float) -> EngineError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return EngineError(
                f"the server's certificate is not to be trusted: {error.verify_message}",
                place=str(self.address),
                hint="name the authority that signed it in SSL_CERT_FILE",
            )
        if late:
            message = f"no whole answer within {s:g} s"
            return NoAnswerError(message, hint=HINT, place=str(self.address))
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        lost = isinstance(error, OSError)
        return NoAnswerError(reason, hint=HINT, place=str(self.address), counts=not lost)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
) -> None:
    # A proxy may refuse a body before it has taken all of it: then its answer says why.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body=body, headers=headers)


def _receive(connection: http.client.HTTPConnection) -> tuple[Answer, bool]:
    """The answer, and whether the connection can be used again."""
    with connection.getresponse() as response:
        if response.length is None and not response.chunked:
            raise http.client.HTTPException("an answer that does not tell its length")
        if (response.length or 0) > LARGEST_ANSWER:
            raise http.client.HTTPException(f"an answer of {response.length} bytes")
        headers = {name.title(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read()), not response.will_close


@contextmanager
def _hung_up_at(deadline: float, sock: socket.socket) -> Iterator[None]:
    """A block that uses `sock`, in which every call on it fails once `deadline` has passed."""
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _hang_up, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past TLS, which would want to talk


def _no_address(url: str) -> ConfigError:
    return ConfigError(
        f"{url.rpartition('@')[2]!r} is no server address",
        hint="write host:port, http://host:port or https://host",
    )
