"""A real server that is killed in the middle of things, and started again."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sagdeploy.serving.server import TritonServer

T = TypeVar("T")


class Restarting:
    """A tritonserver that any thread may kill, and that starts again on the same port."""

    def __init__(self, repository: Path, cache: Path | None) -> None:
        self._repository, self._cache = repository, cache
        self._server = TritonServer(repository, cache=cache)
        self._wake = threading.Event()
        self._is_killed = False
        self.kills = 0

    def __enter__(self) -> "Restarting":
        self._server.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        """`127.0.0.1:port`, the same after a restart."""
        return self._server.url

    def kill(self) -> None:
        """SIGKILL to the server and its backends."""
        os.killpg(self._server.pid, signal.SIGKILL)
        self.kills += 1
        self._is_killed = True
        self._wake.set()

    def run(self, work: Callable[[], T], while_down: Callable[[], object] = lambda: None) -> T:
        """What `work` returns; it is done in a thread, for a server dies with that of its start."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            future.add_done_callback(lambda _: self._wake.set())
            while not future.done():
                self._wake.wait()
                self._wake.clear()
                if self._is_killed:
                    self._is_killed = False
                    self._restart(while_down)
        return future.result()

    def _restart(self, while_down: Callable[[], object]) -> None:
        port = int(self.url.rpartition(":")[2])
        self._server.stop()
        while_down()
        self._server = TritonServer(self._repository, port=port, cache=self._cache)
        self._server.__enter__()
