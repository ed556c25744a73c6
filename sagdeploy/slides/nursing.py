"""The nursery of decoders, as the program sees it: started when first needed, ended with it."""

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import sagdeploy
from sagdeploy.slides.wire import Channel, ClosedError, Message

START = """
import sys
sys.path.insert(0, sys.argv[2])
import sagdeploy
del sys.path[0]
from sagdeploy.slides.nursery import main
main(int(sys.argv[1]))
"""
"""The package that runs here, wherever it lies; but nothing else of the folder that it lies in,
nor of the one that the user is in."""

ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not fork
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "4",  # else 64 MiB of address space a thread, of which little returns
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),  # glibc would raise it, and keep what pictures took
}
START_S, END_S = 60.0, 5.0


class Nursery:
    """A process that forks decoders. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None

    def order(self, message: Message, *, descriptors: Sequence[int]) -> Message:
        """Its answer; if it was killed, another one's."""
        with self._lock:
            for _ in range(2):
                control = self._control or self._start()
                try:
                    control.set_deadline(START_S)
                    control.send(message, descriptors=descriptors)
                    return control.receive()[0]
                except (ClosedError, TimeoutError):
                    self._end()
        raise RuntimeError("decoders cannot be started: their nursery ends at once")

    def end(self) -> None:
        """End the process, and with it all decoders."""
        with self._lock:
            self._end()

    def leave(self) -> None:
        """In a fork of the program: it is the program's, not the fork's."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # no child of this process
        if self._control is not None:
            self._control.close()
        self._process = self._control = None

    def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        folder = str(Path(sagdeploy.__file__).parents[1])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(theirs.fileno()), folder],
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the program to decide about
            )
        self._control = Channel(ours)
        return self._control

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._control = None


NURSERY = Nursery()
"""The one of this process."""

atexit.register(NURSERY.end)
os.register_at_fork(after_in_child=NURSERY.leave)
