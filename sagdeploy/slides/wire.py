"""Messages between a slide's user and the process that decodes it: JSON, and pixels behind it.

Never pickle: a hostile slide may have taken over the sender.
"""

import json
import math
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

Message = dict[str, Any]

LENGTH = struct.Struct("<I")
MOST_BYTES = 64 << 20
"""Of one message: the corners of a million tiles."""

MOST_DESCRIPTORS = 3


class ClosedError(Exception):
    """The other side is gone, or talks nonsense."""


class Channel:
    """One end of a conversation, for one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._until = math.inf

    def fileno(self) -> int:
        """Its descriptor, for those who wait on several."""
        return self._socket.fileno()

    def set_deadline(self, seconds: float) -> None:
        """From now on; a TimeoutError where the other side has not done its part by then."""
        self._until = time.monotonic() + seconds

    def send(self, message: Message, *, descriptors: Sequence[int] = ()) -> None:
        """Send a message; `descriptors` of open files go with it."""
        data = json.dumps(message).encode()
        head = LENGTH.pack(len(data))
        with self._waiting():
            if descriptors:
                socket.send_fds(self._socket, [head], list(descriptors))
                self._socket.sendall(data)
            else:
                self._socket.sendall(head + data)

    def receive(self) -> tuple[Message, list[int]]:
        """The next message, and the descriptors that came with it."""
        with self._waiting():
            head, descriptors, _, _ = socket.recv_fds(self._socket, LENGTH.size, MOST_DESCRIPTORS)
        if len(head) != LENGTH.size or LENGTH.unpack(head)[0] > MOST_BYTES:
            raise ClosedError
        data = bytearray(LENGTH.unpack(head)[0])
        self._fill(memoryview(data))
        try:
            message = json.loads(data)
        except ValueError as error:
            raise ClosedError from error
        if not isinstance(message, dict):
            raise ClosedError
        return message, descriptors

    def send_array(self, array: NDArray[Any]) -> None:
        """Send the values of a contiguous array; the other side knows its shape."""
        with self._waiting():
            self._socket.sendall(array.data.cast("B"))

    def receive_array(self, array: NDArray[Any]) -> None:
        """Fill a contiguous array."""
        self._fill(array.data.cast("B"))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _fill(self, view: memoryview) -> None:
        while view:
            with self._waiting():
                count = self._socket.recv_into(view)
            if not count:
                raise ClosedError
            view = view[count:]

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """A call on the socket, which waits until the deadline."""
        if self._until < math.inf:
            self._socket.settimeout(max(0.0, self._until - time.monotonic()))
        try:
            yield
        except BlockingIOError as error:  # the deadline has passed, and nothing had come
            raise TimeoutError from error
        except ConnectionError as error:
            raise ClosedError from error
