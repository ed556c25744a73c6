"""Which engine answers: a server that was named, one that is there, or the repository."""

import socket
from pathlib import Path

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.engine import Engine

LOCAL_SERVER = "localhost:8000"
REPOSITORY = Path("model_repository")
"""Where `export` writes when it is not told."""

KNOCK_S = 0.5
"""Longest wait for a server on this machine to take a connection."""


def connect(server: str | None, repository: Path | None, model: str) -> Engine:
    """The server or the repository that is named, else a ready server here, else `REPOSITORY`.

    Raises EngineError when a named server does not answer, ModelError without any model.
    """
    if server:
        from sagdeploy.serving.triton import TritonEngine

        return TritonEngine(server)
    if repository is None and _listens(LOCAL_SERVER) and (nearby := _nearby(model)) is not None:
        return nearby
    from sagdeploy.serving.local import LocalEngine

    return LocalEngine(repository or REPOSITORY)


def _listens(address: str) -> bool:
    """Whether anybody does; asked first, for a client for servers is slow to import."""
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=KNOCK_S):
            return True
    except OSError:
        return False


def _nearby(model: str) -> Engine | None:
    from sagdeploy.serving.triton import TritonEngine

    try:
        engine = TritonEngine(LOCAL_SERVER)
        if engine.is_ready(model):
            return engine
        engine.close()
    except (EngineError, ModelError):
        return None
    return None
