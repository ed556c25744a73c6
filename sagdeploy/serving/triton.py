"""The engine that asks a Triton server over HTTP."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import quote

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.manifest import Manifest, extractor_name, parse_manifest
from sagdeploy.serving.engine import REQUEST_TILES, Arrays, Pace, arrived
from sagdeploy.serving.kserve import (
    HEADER_BYTES,
    Indexed,
    ServedConfig,
    ServerInfo,
    Signature,
    check_request,
    decode_outputs,
    encode_inputs,
    error_text,
    read_message,
)
from sagdeploy.serving.patience import Patience, TransientError, persist
from sagdeploy.serving.shared_memory import LostRegionError, Regions, room
from sagdeploy.serving.transport import Answer, Connections, parse_address

logger = logging.getLogger(__name__)

TIMEOUT_S = 120.0
PROBE_S = 5.0
"""For questions that a server answers at once, or is not ready."""
BUSY = {408, 425, 429, 500, 502, 503, 504}
FORBIDDEN = {401, 403}
TOO_LARGE = 413
PACE = Pace(batch_tiles=16, in_flight=4)
LOADING = ("not at ready state", "has no available versions")
"""How Triton says, with status 404 or 503, that a model it knows is not loaded now."""
LOST_REGION = "shared memory region"
"""How it says that it has not opened one that a request names."""

Message = TypeVar("Message")


class TritonEngine:
    """Models on a Triton server; nothing is asked before the first call."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        patience: Patience | None = None,
        shares_memory: bool = True,
    ) -> None:
        """An engine for the server at `host:port`, `http://...` or `https://...`.

        timeout_s:     from connecting to the last byte of an answer, however it trickles in
        shares_memory: with a server on this machine that allows it
        """
        self._url = url
        self._address = parse_address(url)
        self._connections = Connections(self._address)
        self._regions = Regions(self._connections, is_wanted=shares_memory)
        self._timeout_s = timeout_s
        self._patience = patience or Patience()
        self._signatures: dict[tuple[str, int], Signature] = {}
        self._reached = False
        self._closed = threading.Event()
        if not (self._address.tls or self._address.is_loopback):
            logger.warning("%s: tiles travel unencrypted; https:// protects them", self._address)

    def __reduce__(self) -> tuple[object, ...]:
        """Where it is, for another process."""
        return arrived, (TritonEngine, self._url)

    @property
    def name(self) -> str:
        """`Triton 2.51.0`; without the version while the server is away."""
        # Not by the server's own name: `tritonserver --id` may be that of a machine.
        return f"Triton {self.server_version}".rstrip()

    @property
    def server_version(self) -> str:
        """The server's own, `2.51.0`; empty while it is away."""
        server = self._server()
        return server.version if server else ""

    @property
    def description(self) -> str:
        """`Triton 2.51.0 at localhost:8000`."""
        return f"{self.name} at {self._address}"

    def pace(self, model: str, version: int | None = None) -> Pace:
        """Enough in flight that the server has the next request while an answer travels."""
        return PACE

    def ensemble_tiles(self, model: str) -> int:
        """As many as Triton puts into one run of the extractor: it never splits a request."""
        limit = self._config(extractor_name(model)).max_batch_size
        return min(REQUEST_TILES, limit or REQUEST_TILES)

    def models(self) -> tuple[str, ...]:
        """Names of the models that carry a manifest of ours."""
        index = self._read(tuple[Indexed, ...], self._ask("POST", "/v2/repository/index"))
        names = sorted({model.name for model in index})
        return tuple(name for name in names if self._carries_manifest(name))

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        """Manifest of a model's version, or of the one that its ensemble serves."""
        config = self._config(model)
        manifests = config.manifests
        wanted = config.latest if version is None else version
        if wanted not in manifests:
            there = ", ".join(map(str, sorted(manifests))) or "none"
            raise ModelError(
                f"model {model!r} has no manifest of version {wanted or 1}; "
                f"versions with one: {there}",
                place=str(self._address),
                hint="serve a repository that `sagdeploy export` wrote",
            )
        return parse_manifest(manifests[wanted], f"model {model!r}", place=str(self._address))

    def is_ready(self, model: str) -> bool:
        """Whether the server says, at once, that the model can be asked."""
        try:
            self._probe(f"{_path(model)}/ready")
        except (EngineError, ModelError):
            return False
        return True

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        """All outputs of a model for `inputs`, by name; read-only.

        ModelError where the model does not take `inputs`, EngineError after all retries.
        """
        signature = self._signature(model, version)
        check_request(inputs, signature)
        path = f"{_path(model, version)}/infer"
        answer = self._persist(lambda: self._infer_once(path, inputs, signature))
        with self._named():
            return decode_outputs(
                answer.body, answer.headers.get(HEADER_BYTES, ""), signature, version
            )

    def close(self) -> None:
        """Close the connections, and end the waiting for a server that is away."""
        self._closed.set()
        self._regions.close()
        self._connections.close()

    def _server(self) -> ServerInfo | None:
        """What the server says of itself; None while it is away."""
        try:
            # One that was there is waited for: the same slide is to have the same record.
            answer = self._ask("GET", "/v2") if self._reached else self._probe("/v2")
            return self._read(ServerInfo, answer)
        except (EngineError, ModelError):
            return None

    def _carries_manifest(self, model: str) -> bool:
        try:
            return bool(self._config(model).manifests)
        except ModelError:  # in the repository, but it could not be loaded
            return False

    def _config(self, model: str) -> ServedConfig:
        return self._read(ServedConfig, self._ask("GET", f"{_path(model)}/config"))

    def _signature(self, model: str, version: int | None) -> Signature:
        if version is None:  # which one that is may change
            return self._read(Signature, self._ask("GET", _path(model)))
        if (model, version) not in self._signatures:
            answer = self._ask("GET", _path(model, version))
            self._signatures[model, version] = self._read(Signature, answer)
        return self._signatures[model, version]

    def _infer_once(self, path: str, inputs: Arrays, signature: Signature) -> Answer:
        with self._regions.lend(sum(map(room, inputs.values()))) as region:
            body, headers = encode_inputs(inputs, signature, region)
            return self._once("POST", path, body, headers, timeout_s=self._timeout_s)

    def _probe(self, path: str) -> Answer:
        return self._once("GET", path, timeout_s=PROBE_S)

    def _ask(self, method: str, path: str) -> Answer:
        return self._persist(lambda: self._once(method, path, timeout_s=self._timeout_s))

    def _persist(self, ask: Callable[[], Answer]) -> Answer:
        """The answer to what may be asked twice, asked while patience lasts."""
        patience = self._patience
        return persist(
            ask,
            patience=patience,
            budget_s=patience.retry_s if self._reached else patience.first_s,
            stop=self._closed,
        )

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> Answer:
        answer = self._connections.exchange(
            method, path, body=body, headers=headers, timeout_s=min(timeout_s, self._timeout_s)
        )
        if answer.status != 200:
            raise self._refusal(answer)
        self._reached = True
        return answer

    def _refusal(self, answer: Answer) -> EngineError | ModelError:
        """What an answer other than 200 means."""
        status, told = answer.status, error_text(answer.body)
        place = str(self._address)
        message = told or f"the answer has status {status}, not in the words of Triton"
        if LOST_REGION in told:
            return LostRegionError(message, place=place, counts=False)
        if status in BUSY or any(words in told for words in LOADING):
            return TransientError(message, place=place, retry_after_s=answer.retry_after_s)
        if status in FORBIDDEN:
            hint = "put the login into the address: https://user:...@"
            return EngineError(message, hint=hint, place=place)
        if status == TOO_LARGE:
            hint = "raise the proxy's limit on the size of a request"
            return EngineError(message, hint=hint, place=place)
        if told and 400 <= status < 500:
            hint = "is this the model, and the version, that was meant?"
            return ModelError(message, hint=hint, place=place)
        return EngineError(message, hint="is this the address of a Triton server?", place=place)

    def _read(self, kind: type[Message], answer: Answer) -> Message:
        with self._named():
            return read_message(kind, answer.body)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A block whose EngineErrors tell which server it was."""
        try:
            yield
        except EngineError as error:
            place = str(self._address)
            raise EngineError(error.message, hint=error.hint, place=place) from error


def _path(model: str, version: int | None = None) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{version}"
