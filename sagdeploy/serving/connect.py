"""Which engine answers: a server that was named, one that is there, or the repository."""

from pathlib import Path

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.engine import Engine

LOCAL_SERVER = "localhost:8000"


def connect(
    server: str | None, repository: Path, model: str, *, threads: int | None = None
) -> Engine:
    """The server if one is named, else a ready one on this machine, else the repository's folder.

    Raises EngineError when a named server does not answer, ModelError without any model.
    """
    from sagdeploy.serving.local import LocalEngine
    from sagdeploy.serving.triton import TritonEngine

    if server:
        return TritonEngine(server)
    if (nearby := _nearby(model)) is not None:
        return nearby
    return LocalEngine(repository, threads=threads)


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
