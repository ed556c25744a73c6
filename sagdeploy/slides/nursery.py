"""The process from which decoders are forked: one thread, and the libraries already loaded.

A fork takes milliseconds where a fresh interpreter takes a third of a second, and is safe only
from a process without threads. Each decoder has a leash, held by the process that asks: when it
lets go, or dies, the decoder is killed; when the decoder ends, its status comes along the leash.
"""

import gc
import os
import selectors
import signal
import socket
import struct
from contextlib import suppress
from typing import NoReturn

from sagdeploy.slides.decoder import decode
from sagdeploy.slides.wire import Channel, ClosedError

STATUS = struct.Struct("<i")
"""How a decoder ended, as `os.waitpid` says it."""


def main(descriptor: int) -> NoReturn:
    """Fork a decoder for each message on a channel, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what is loaded stays shared: the collector would write to it
    _Nursery(Channel(socket.socket(fileno=descriptor))).run()


class _Nursery:
    """The decoders that live."""

    def __init__(self, control: Channel) -> None:
        self._control = control
        self._leashes: dict[int, socket.socket] = {}
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def run(self) -> NoReturn:
        """Wait for orders, for leashes that are let go, and for decoders that end."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._control, selectors.EVENT_READ, self._spawn)
        self._selector.register(self._woken, selectors.EVENT_READ, self._reap)
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _spawn(self) -> None:
        try:
            request, descriptors = self._control.receive()
        except ClosedError:
            self._end()
        leash, channel, errors = descriptors
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(leash)
            self._control.send({"error": error.strerror})
        else:
            if pid == 0:
                limit = request["memory_bytes"]
                decode(channel, errors, nursery=parent, memory_bytes=limit)
            self._hold(pid, socket.socket(fileno=leash))
            self._control.send({})
        os.close(channel)
        os.close(errors)

    def _hold(self, pid: int, leash: socket.socket) -> None:
        def let_go() -> None:
            if pid in self._leashes:  # not reaped just now, so that the number is still its own
                self._selector.unregister(leash)
                os.kill(pid, signal.SIGKILL)

        self._leashes[pid] = leash
        self._selector.register(leash, selectors.EVENT_READ, let_go)

    def _reap(self) -> None:
        self._woken.recv(4096)
        while self._leashes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            leash = self._leashes.pop(pid)
            if leash.fileno() in self._selector.get_map():
                self._selector.unregister(leash)
            with suppress(OSError):  # nobody may hold it any more
                leash.send(STATUS.pack(status))
            leash.close()

    def _end(self) -> NoReturn:
        for pid in self._leashes:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
