"""The process that decodes one slide: it opens it, and answers what is asked of its pixels.

It is expected to die: of a header that makes a C library abort, of the limit on its memory,
by the hand of the process that asks. A bug ends it too; its last words are the traceback.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from mmap import mmap
from pathlib import Path
from threading import Lock, Thread
from typing import NoReturn

import numpy as np

from sagdeploy.errors import SagError
from sagdeploy.slides.library import Level
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.wire import Channel, ClosedError, Message

OUT_OF_MEMORY, BUG = 71, 70
"""Exit codes."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class OpenedSlide:
    """What a decoder tells of its slide; each field is the attribute of `Slide` of that name."""

    size_l0: tuple[int, int]
    levels: tuple[Level, ...]
    vendor: str
    objective_power: float | None
    metadata_mpp: tuple[str | None, str | None]
    background_rgb: tuple[int, int, int]
    bounds_l0: tuple[int, int, int, int]
    centre_offset_nm: tuple[float, float] | None


def decode(channel: int, errors: int, *, nursery: int, memory_bytes: int) -> NoReturn:
    """In a fresh fork: decode the slide that the first message names until the channel closes.

    channel: descriptor of a socket
    errors:  descriptor of where what C libraries print goes
    nursery: the process that this one is not to outlive
    """

    def work() -> None:
        _confine(nursery, memory_bytes)
        control = Channel(_keep_only(channel, errors))
        _Decoder(control).serve(control)

    _or_die(work)
    os._exit(0)


def _confine(nursery: int, memory_bytes: int) -> None:
    """Limit this process: its memory, no core dumps, no files, no life after the nursery."""
    if sys.platform == "linux":  # elsewhere the kernel does not heed these two
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != nursery:  # it was gone before that
            os._exit(0)
        _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)


def _limit(what: int, value: int) -> None:
    most = resource.getrlimit(what)[1]
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(what, (value, value))


def _keep_only(channel: int, errors: int) -> socket.socket:
    """Close all that came from the nursery but the decoder's own channel."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(errors, 2)
    os.dup2(channel, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=3)


class _Decoder:
    """One slide, answering on any number of channels at once."""

    def __init__(self, channel: Channel) -> None:
        """Wait for the slide's path, and say what is there."""
        self._memories: dict[int, mmap] = {}
        self._lock = Lock()
        request, _ = channel.receive()
        try:
            slide = open_slide(Path(request["path"]))
        except SagError as error:
            channel.send(_told(error))
            os._exit(0)
        self._slide = slide
        opened = OpenedSlide(*(getattr(slide, field.name) for field in fields(OpenedSlide)))
        channel.send(asdict(opened))

    def serve(self, channel: Channel) -> None:
        """Answer requests until the other side hangs up."""
        while True:
            try:
                request, descriptors = channel.receive()
            except ClosedError:
                return
            try:
                answer = self._answer(request, descriptors)
            except SagError as error:
                answer = _told(error)
            pixels = answer.pop("pixels", None)
            channel.send(answer)
            if pixels is not None:
                channel.send_array(pixels)

    def _answer(self, request: Message, descriptors: list[int]) -> Message:
        """What is told, with `pixels` where some go behind it."""
        match request["do"]:
            case "read":
                region = request["xy_l0"], request["size_l0"], request["size_px"]
                return {"pixels": np.ascontiguousarray(self._slide.read(*map(tuple, region)))}
            case "read_tiles":
                self._read_tiles(request)
            case "reader":
                return {"reader": self._slide.reader}
            case "tiles_read":
                return asdict(self._slide.tiles_read)
            case "listen":
                other = Channel(socket.socket(fileno=descriptors[0]))
                Thread(target=_or_die, args=(lambda: self.serve(other),), daemon=True).start()
            case "share":
                self._memories[request["memory"]] = mmap(descriptors[0], request["bytes"])
                os.close(descriptors[0])
            case "forget":
                del self._memories[request["memory"]]
        return {}

    def _read_tiles(self, request: Message) -> None:
        """Straight into memory that the other side has shared."""
        width, height = request["size_px"]
        shape = (len(request["xy_l0"]), height, width, 3)
        memory = self._memories[request["memory"]]
        self._slide.read_tiles(
            np.array(request["xy_l0"], np.int64),
            size_l0=tuple(request["size_l0"]),
            size_px=(width, height),
            out=np.ndarray(shape, np.uint8, memory, request["offset"]),
        )


def _told(error: SagError) -> Message:
    return {"error": type(error).__name__, "message": str(error), "hint": error.hint}


def _or_die(work: Callable[[], None]) -> None:
    """Do some work; the process ends with an error that nobody has foreseen."""
    try:
        work()
    except ClosedError:
        return
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:  # whatever it is, the asking process is to learn of it
        traceback.print_exc()
        os._exit(BUG)
