"""A hold on the process that decodes a slide: it is asked, and watched as it dies."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import sagdeploy.errors
from sagdeploy.errors import SagError, SlideError
from sagdeploy.slides.decoder import BUG, OUT_OF_MEMORY
from sagdeploy.slides.nursery import STATUS
from sagdeploy.slides.nursing import NURSERY
from sagdeploy.slides.wire import Channel, ClosedError, Message

log = logging.getLogger(__name__)

LAST_WORDS_S = 5.0
LAST_WORDS_BYTES = 1 << 16
REFUSED_MEMORY = ("failed to allocate", "bad_alloc")
DAMAGED = "the file is damaged: copy it again"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the decoder of a slide may take before the slide is given up."""

    memory_bytes: int = 4 << 30
    """Of address space, the libraries' own included; a slide needs less than a quarter."""

    seconds: float = 120.0
    """For one answer: opening, a batch of tiles, a thumbnail."""


class Decoder:
    """A process that decodes one slide. For any number of threads."""

    def __init__(self, path: Path, *, name: str, limits: Limits) -> None:
        """Have the slide opened; `opened` is what the decoder tells of it.

        name: of the slide, for errors
        """
        self._name, self._limits = name, limits
        self._failure: Exception | None = None
        self._idle: list[Channel] = []
        self._lock, self._control_lock = threading.Lock(), threading.Lock()
        self._control, self._leash, self._errors = _fork(name, limits)
        try:
            self.opened = self.order({"path": os.path.abspath(path)})
        except BaseException:
            self.close()
            raise

    def order(self, message: Message, *, descriptor: int | None = None) -> Message:
        """The answer to what concerns the decoder as a whole."""
        descriptors = [] if descriptor is None else [descriptor]
        with self._control_lock:
            return self._exchange(self._control, message, descriptors=descriptors)

    def ask(self, message: Message, *, pixels: NDArray[Any] | None = None) -> None:
        """Have something read; `pixels` is filled with what comes behind the answer.

        Where the decoder dies, all who wait for it get the same error, and at once all who come.
        """
        with self._channel() as channel:
            self._exchange(channel, message, pixels=pixels)

    def close(self) -> None:
        """End the decoder."""
        self._fail(self._closed)
        with self._control_lock:
            self._control.close()

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        """A channel that no other thread uses; there are as many as threads that ask at once."""
        with self._lock:
            channel = self._idle.pop() if self._idle else None
        channel = channel or self._new_channel()
        try:
            yield channel
        finally:
            with self._lock:
                is_kept = self._failure is None
                self._idle += [channel] if is_kept else []
            if not is_kept:
                channel.close()

    def _new_channel(self) -> Channel:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.order({"do": "listen"}, descriptor=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        return Channel(ours)

    def _exchange(
        self,
        channel: Channel,
        message: Message,
        *,
        descriptors: Sequence[int] = (),
        pixels: NDArray[Any] | None = None,
    ) -> Message:
        if self._failure is not None:
            raise copy(self._failure)
        try:
            channel.set_deadline(self._limits.seconds)
            channel.send(message, descriptors=descriptors)
            answer, _ = channel.receive()
            if pixels is not None and "error" not in answer:
                channel.receive_array(pixels)
        except TimeoutError:
            raise self._fail(self._timeout) from None
        except ClosedError:
            raise self._fail(self._death) from None
        except BaseException:  # Ctrl-C: the rest of the answer would be taken for the next one
            self._fail(self._closed)
            raise
        if "error" in answer:
            raise _error(answer)
        return answer

    def _fail(self, reason: Callable[[], Exception]) -> Exception:
        """Kill the decoder, if it lives; returns why it is of no use, which is the first reason."""
        with self._lock:
            if self._failure is None:
                self._failure = reason()
                self._leash.close()
                os.close(self._errors)
                for channel in self._idle:
                    channel.close()
                self._idle.clear()
            return copy(self._failure)

    def _closed(self) -> Exception:
        return SlideError(f"{self._name}: was closed while it was read")

    def _timeout(self) -> Exception:
        return SlideError(
            f"{self._name}: timed out: not read within {self._limits.seconds:g} s",
            hint="is its storage slow? Else the file is damaged: copy it again",
        )

    def _death(self) -> Exception:
        """Why the decoder is dead."""
        status, words = self._status(), self._last_words()
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if code == BUG:
            return RuntimeError(f"in the decoder: {words.splitlines()[-1] if words else '?'}")
        if code == OUT_OF_MEMORY or any(sign in words for sign in REFUSED_MEMORY):
            limit = f"limit {self._limits.memory_bytes / 2**30:g} GiB"
            return SlideError(f"{self._name}: out of memory ({limit})", hint=DAMAGED)
        if code is None or -code == signal.SIGKILL:
            return SlideError(
                f"{self._name}: its decoder was killed from outside",
                hint="run the same command again; was the machine out of memory?",
            )
        what = f"signal {-code} (corrupt file)" if code < 0 else f"exit code {code}"
        return SlideError(f"{self._name}: its decoder died: {what}", hint=DAMAGED)

    def _status(self) -> int | None:
        """How the process ended; None where nobody is left to say so."""
        self._leash.settimeout(LAST_WORDS_S)
        try:
            data = self._leash.recv(STATUS.size)
        except OSError:
            return None
        return int(STATUS.unpack(data)[0]) if len(data) == STATUS.size else None

    def _last_words(self) -> str:
        """What the C libraries, or Python, have printed; for the log of those who debug only."""
        with suppress(BlockingIOError):
            words = os.read(self._errors, LAST_WORDS_BYTES).decode(errors="replace").strip()
            for line in words.splitlines():
                log.debug("%s: %s", self._name, line)
            return words
        return ""


def _fork(name: str, limits: Limits) -> tuple[Channel, socket.socket, int]:
    """A channel to a new decoder, its leash, and the descriptor where its last words are read."""
    try:
        with ExitStack() as theirs, ExitStack() as ours:
            channel, leash = (_pair(ours, theirs) for _ in range(2))
            errors, written = os.pipe()
            ours.callback(os.close, errors)
            theirs.callback(os.close, written)
            os.set_blocking(errors, False)
            os.set_blocking(written, False)  # who prints without end does not wait for a reader
            given = [leash[1].fileno(), channel[1].fileno(), written]
            answer = NURSERY.order({"memory_bytes": limits.memory_bytes}, descriptors=given)
            if "error" in answer:
                raise SlideError(f"{name}: no process to decode it: {answer['error']}")
            ours.pop_all()
            return Channel(channel[0]), leash[0], errors
    except OSError as error:
        raise SlideError(f"{name}: no process to decode it: {error.strerror}") from error


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    here, there = socket.socketpair()
    return ours.enter_context(here), theirs.enter_context(there)


def _error(answer: Message) -> SagError:
    """The error that the decoder met, as it was."""
    kind = getattr(sagdeploy.errors, str(answer["error"]), SlideError)
    assert issubclass(kind, SagError)
    return kind(str(answer.get("message")), hint=str(answer.get("hint", "")))
