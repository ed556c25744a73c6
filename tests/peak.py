"""How much memory a piece of work takes at most, as the kernel counts it.

Not by getrusage: a process that has just been started begins there with the peak of the one that
started it, which hides all that is smaller.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def restart_peak() -> float:
    """MiB that this process uses now, from where its peak starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """MiB that it used at most, since it began or the peak was started anew."""
    return _status_mib("VmHWM")


def growth_mib(setup: str, work: str) -> float:
    """MiB that the code `work` adds at most to a process of its own that has run `setup`."""
    counting = "from tests.peak import peak_mib, restart_peak\nbefore = restart_peak()"
    code = "\n".join([setup, counting, work, "print(peak_mib() - before)"])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
