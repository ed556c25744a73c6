"""The viewer's HTTP server: loopback only, for the one who was shown its address.

The address holds a random token; the first request turns it into a cookie, which no other site
can use: its name is bound to the port, requests under another host's name are refused (a name
that is made to point here would share no cookie, but could probe), and pages may load nothing
from anywhere else.
"""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from sagdeploy.errors import ConfigError, SagError
from sagdeploy.pipeline.outcome import one_line
from sagdeploy.view.site import Answer, Site

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
TEXT = "text/plain; charset=utf-8"
IDLE_SECONDS = 60
"""A connection without a request is closed after this."""

OPENSEADRAGON_STYLE = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""Of the one rule that OpenSeadragon 6.1.1 writes into the page."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; img-src 'self' data: blob:; "
    f"style-src 'self' {OPENSEADRAGON_STYLE}; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # nothing of a patient stays in the browser's files
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, site: Site) -> None:
        self.site = site
        self.token = secrets.token_urlsafe(24)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def cookie(self) -> str:
        """Name of the cookie: cookies are shared by the ports of a host."""
        return f"sagdeploy_{self.server_port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser that was given our address calls us."""
        return (f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "not a name of this viewer")
        elif "token" in (query := parse_qs(url.query)):
            self._welcome(query["token"][0])
        elif not self._is_known():
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that sagdeploy view printed")
        else:
            self._answer(url.path.removeprefix("/"))

    def _welcome(self, token: str) -> None:
        """Turn the token into a cookie, and take it out of the address."""
        if not self._is_token(token):
            self._refuse(HTTPStatus.FORBIDDEN, "open the address that sagdeploy view printed")
            return
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header(
            "Set-Cookie",
            f"{self.server.cookie}={token}; HttpOnly; SameSite=Strict; Path=/",
        )
        self._end(Answer(TEXT, b""))

    def _answer(self, address: str) -> None:
        try:
            answer = self.server.site.answer(address)
        except SagError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, one_line(error))
            return
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")
            return
        self.send_response(HTTPStatus.OK)
        self._end(answer)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.send_response(status)
        self._end(Answer(TEXT, f"{why}\n".encode()))

    def _end(self, answer: Answer) -> None:
        policy = REPORT_POLICY if answer.is_report else PAGE_POLICY
        said = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in (said | HEADERS | {"Content-Security-Policy": policy}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(answer.body)
        except ConnectionError:  # the browser scrolled on and no longer wants it
            self.close_connection = True

    def _is_known(self) -> bool:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        cookie = cookies.get(self.server.cookie)
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self.server.token.encode())

    def version_string(self) -> str:
        """What the server calls itself: no versions."""
        return "sagdeploy"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log what was asked for, without the token."""
        log.debug("%s %s: %s", self.command, urlsplit(self.path).path, int(code))

    def log_message(self, format: str, *args: object) -> None:
        """Log a bad request, which could hold anything, without its text."""
        log.debug("a request that is not HTTP")


@contextmanager
def listening(site: Site, port: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of the viewer, with its token, and the call that serves until it is stopped.

    port: 0 takes any that is free
    """
    try:
        server = _Server(port, site)
    except OSError as error:
        raise ConfigError(
            f"port {port} of {LOOPBACK} cannot be used: {error.strerror}",
            hint="choose another --port, or none",
        ) from error
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/?token={server.token}", server.serve_forever
    finally:
        server.server_close()
        site.close()
