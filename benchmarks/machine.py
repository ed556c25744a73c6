"""What the kernel tells of processes: their memory, and who has the machine."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def resident(pid: int) -> float:
    """MiB of a process, shared pages divided among those that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def group(leader: int) -> list[int]:
    """Processes of a group."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
    return [pid for pid in pids if _stat(pid)[2:3] == [str(leader)]]


def tree(root: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents = {
        int(path.name): stat[1]
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and (stat := _stat(int(path.name)))
    }
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == str(pid)]
    return found


@dataclass(slots=True)
class Usage:
    """What a block took of the machine."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    """Of this process and all that it started."""

    others: float = 0.0
    """Share of the machine that all other programs took."""


@contextmanager
def watched() -> Iterator[Usage]:
    """A block, and what it takes in this process and all that it started, decoders among them."""
    usage = Usage()
    busy, ours, begun = _busy_s(), _ours_s(), time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - begun
    usage.cpu_s = _ours_s() - ours
    others_s = max(0.0, _busy_s() - busy - usage.cpu_s)
    usage.others = others_s / usage.seconds / (os.cpu_count() or 1)


def _busy_s() -> float:
    """CPU seconds of the machine so far."""
    user, nice, system, _, _, irq, soft, steal, *_ = (
        int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _ours_s() -> float:
    """CPU seconds so far of this process and those it started, also of those that have ended."""
    times = (map(int, _stat(pid)[11:15]) for pid in tree(os.getpid()))
    return sum(map(sum, times)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """What the kernel tells of a process, from its state on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
