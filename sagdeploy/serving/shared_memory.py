"""Requests in memory that a server on the same machine shares, instead of over the wire.

A region loses its name as soon as the server has opened it, so that nothing is left behind,
whatever becomes of either side. Answers come over HTTP all the same: a request that was given
up may still be running, and must not write where the answer to the next one is read.
"""

import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.serving.patience import TransientError
from sagdeploy.serving.transport import Answer, Connections, NoAnswerError

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
PREFIX = "sagdeploy-"
LARGEST = 64 << 20
"""Bytes of a region; a larger request goes over the wire."""
GRAIN = 1 << 20
ALIGNMENT = 64
ANSWER_S = 5.0
MOST_FAULTS = 3
"""Regions in a row about which the server may say nothing before it is no longer asked."""


class LostRegionError(TransientError):
    """The server does not know a region: it is another one than that which opened it."""


class Region:
    """Memory for one request at a time."""

    def __init__(self, size: int) -> None:
        """`size` bytes under a name of its own; OSError where there is no room."""
        self.name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self.size = size
        self._used = 0
        descriptor = os.open(FOLDER / self.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # else a full folder is a signal, later
            self._memory = mmap(descriptor, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    def write(self, array: NDArray[Any]) -> int:
        """Offset at which the array now lies, behind those that were written before it."""
        offset = self._used
        target = np.ndarray(array.shape, array.dtype, self._memory, offset)
        target[...] = array
        self._used = offset + room(array)
        return offset

    def clear(self) -> None:
        """Begin the next request."""
        self._used = 0

    def unlink(self) -> None:
        """Take the name away; the memory stays as long as anyone has it open."""
        (FOLDER / self.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


class Regions:
    """Regions at one server, as many as requests are under way. For any number of threads."""

    def __init__(self, connections: Connections, *, is_wanted: bool) -> None:
        """None at all unless they are wanted, and the server may be on this machine."""
        self._connections = connections
        self._is_off = not (is_wanted and connections.address.is_loopback and FOLDER.is_dir())
        self._is_resting = False
        self._faults = 0
        self._idle: list[Region] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, size: int) -> Iterator[Region | None]:
        """A region for one request of `size` bytes; None where it is to go over the wire.

        After a request without an answer the next ones go over the wire, until one is answered.
        """
        region, is_answered = self._take(size), False
        try:
            yield region
            is_answered = True
        except (EngineError, ModelError) as error:
            is_answered = not isinstance(error, NoAnswerError | LostRegionError)
            raise
        finally:
            self._is_resting = not is_answered
            if region is not None:
                self._put_back(region, is_answered)

    def close(self) -> None:
        """Have the server forget the regions, and give their memory back."""
        with self._lock:
            self._is_off = True
            idle, self._idle = self._idle, []
        for region in idle:
            self._dismiss(region)

    def _take(self, size: int) -> Region | None:
        if self._is_off or self._is_resting or size > LARGEST:
            return None
        with self._lock:
            fitting = [region for region in self._idle if region.size >= size]
            region = min(fitting, key=lambda region: region.size) if fitting else None
            outgrown = self._idle[0] if self._idle and region is None else None
            self._idle = [each for each in self._idle if each not in (region, outgrown)]
        if outgrown is not None:
            self._dismiss(outgrown)
        return region or self._new(-(-size // GRAIN) * GRAIN)

    def _new(self, size: int) -> Region | None:
        """A region that the server has opened; None, for ever, where it does not want to."""
        try:
            region = Region(size)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return None
        is_open = False
        try:
            is_open = self._register(region)
        finally:
            region.unlink()
            if not is_open:
                region.close()
        return region if is_open else None

    def _register(self, region: Region) -> bool:
        """Whether the server has opened the region."""
        message = {"key": f"/{region.name}", "offset": 0, "byte_size": region.size}
        body = json.dumps(message).encode()
        try:
            answer = self._exchange(region, "register", body)
        except NoAnswerError as fault:
            self._is_resting = True
            self._faults += 1
            if self._faults >= MOST_FAULTS:
                self._give_up(str(fault))
            raise
        self._faults = 0
        if answer.status != 200:
            self._give_up(f"status {answer.status}")
        return answer.status == 200

    def _exchange(self, region: Region, action: str, body: bytes | None = None) -> Answer:
        path = f"/v2/systemsharedmemory/region/{region.name}/{action}"
        return self._connections.exchange("POST", path, body=body, timeout_s=ANSWER_S)

    def _put_back(self, region: Region, is_answered: bool) -> None:
        if not is_answered:  # the server may be reading still, so it is not told to forget
            region.close()
            return
        region.clear()
        with self._lock:
            is_kept = not self._is_off
            self._idle += [region] if is_kept else []
        if not is_kept:
            self._dismiss(region)

    def _dismiss(self, region: Region) -> None:
        with suppress(EngineError):  # a server that is gone has forgotten
            self._exchange(region, "unregister")
        region.close()

    def _give_up(self, reason: str) -> None:
        logger.info("%s: no shared memory: %s", self._connections.address, reason)
        self._is_off = True


def room(array: NDArray[Any]) -> int:
    """Bytes that an array takes in a region."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT
