"""What the kernel tells of processes: who is whose child, and what is open."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def children(pid: int) -> list[int]:
    """Processes that a process has started, without those that are dead."""
    stats = [path / "stat" for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [int(stat.parent.name) for stat in stats if _parent(stat) == pid]


def decoders() -> list[int]:
    """Processes that decode slides for this one."""
    return [decoder for nursery in nurseries() for decoder in children(nursery)]


def nurseries() -> list[int]:
    """Processes from which decoders are forked for this one."""
    return [pid for pid in children(os.getpid()) if b"slides.nursery" in _command(pid)]


def open_files() -> set[str]:
    """Descriptors of this process, without the one that lists them."""
    return {name for name in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{name}").exists()}


def resident_kib(pid: int) -> int:
    """Memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether something comes true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _parent(stat: Path) -> int | None:
    try:
        state, parent, *_ = stat.read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(parent)
