"""Runs a forked process under strace: what it writes, call by call, or killed at one such call.

strace counts a call for each thread and each name of a call by itself: a recorded run tells which
of its name a call is, and that one thread alone writes below the folder of results.
"""

import ctypes
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

WRITING = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("chmod", "fchmod", "fchmodat", "utimensat"),
)
"""System calls that change what is on the disk; not all of them are on every processor."""

PR_SET_PTRACER = 0x59616D61
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


@dataclass(frozen=True, slots=True)
class Call:
    """A call that writes: its name, and the how many-th of that name it is in its thread."""

    name: str
    when: int


def stand_still() -> None:
    """Stop this process until `record` or `kill_at` has it under strace."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)  # fails, and is not needed, where Yama is not
    os.kill(os.getpid(), signal.SIGSTOP)


def record(process: int, out: Path) -> list[Call]:
    """The calls of a whole run that write below `out`, in order.

    AssertionError if other threads, or processes below, made one too.
    """
    log = Path(f"{out}.strace")
    names = ",".join(f"?{name}" for name in WRITING)
    _let_run(process, ["-ff", "-y", "-e", f"trace={names}", "-o", str(log)])
    inside = re.compile(rf"{re.escape(str(out))}[/>\"]")
    first, *others = sorted(
        log.parent.glob(f"{log.name}.*"), key=lambda path: path.suffix != f".{process}"
    )
    for other in others:
        assert not inside.search(other.read_text()), f"{other}: not the first thread"
    calls: list[Call] = []
    counted = dict.fromkeys(WRITING, 0)
    for line in first.read_text().splitlines():
        name = line.partition("(")[0]
        if name in counted:
            counted[name] += 1
            if inside.search(line):
                calls.append(Call(name, counted[name]))
    return calls


def kill_at(process: int, call: Call) -> None:
    """Have a process killed just before its first thread makes a call."""
    at = f"inject={call.name}:signal=SIGKILL:when={call.when}"
    _let_run(process, ["-e", f"trace={call.name}", "-e", at, "-o", os.devnull])


def _let_run(process: int, options: list[str]) -> None:
    """Attach strace to a process that stands still, let it go on, and wait for its end."""
    os.waitpid(process, os.WUNTRACED)
    command = ["strace", *options, "-p", str(process)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        os.kill(process, signal.SIGCONT if "attached" in said else signal.SIGKILL)
        _, rest = strace.communicate()
    assert "attached" in said, said + rest
