"""What the kernel tells of processes: their memory, and who has the machine."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def others_share(leader: int) -> Iterator[list[float]]:
    """A block; the list then holds the share of the machine that others than this process and
    the group of `leader` took."""
    shares: list[float] = []
    busy, ours, begun = _busy_s(), _ours_s(leader), time.perf_counter()
    yield shares
    capacity = (time.perf_counter() - begun) * (os.cpu_count() or 1)
    shares.append(max(0.0, (_busy_s() - busy) - (_ours_s(leader) - ours)) / capacity)


def _busy_s() -> float:
    """CPU seconds of the machine so far."""
    user, nice, system, _, _, irq, soft, steal, *_ = (
        int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _ours_s(leader: int) -> float:
    """CPU seconds of this process and the group so far."""
    times = (map(int, _stat(pid)[11:13]) for pid in (os.getpid(), *group(leader)))
    return sum(map(sum, times)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """What the kernel tells of a process, from its state on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
