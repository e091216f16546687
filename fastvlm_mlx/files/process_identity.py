"""Tells whether the process that wrote a temporary name still runs.

A process id alone does not: ids are used again, and containers that share a disk each
count from 1. So a name also holds the host with its table of processes, and when the
process started.
"""

import hashlib
import os
import socket
import subprocess
from functools import cache
from pathlib import Path

UNKNOWN = "0" * 8


@cache
def host_id() -> str:
    """Six characters for this machine, or this container on it."""
    name = socket.gethostname()
    try:
        name += os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        pass
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def start_id(pid: int) -> str:
    """Eight characters for when process `pid` started; UNKNOWN if nothing tells.

    No clock is read: it may have been set since.
    """
    try:
        # Behind the program's name, which may hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        ticks = fields.rpartition(")")[2].split()[19]
        started = ticks + Path("/proc/sys/kernel/random/boot_id").read_text()
    except (OSError, IndexError):
        try:
            started = subprocess.run(
                ["ps", "-o", "lstart=", "-p", str(pid)],
                env={"PATH": "/bin:/usr/bin", "LC_ALL": "C", "TZ": "UTC"},
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
            ).stdout.strip()
        except (OSError, ValueError, subprocess.SubprocessError):
            return UNKNOWN
    return hashlib.sha256(started.encode()).hexdigest()[:8] if started else UNKNOWN


@cache
def own_start_id(pid: int) -> str:
    """`start_id` of this process; `pid` is its own, so that a fork asks anew."""
    return start_id(pid)


def is_running(pid: int, started: str) -> bool:
    """Whether process `pid` of this machine runs and is the one that `started` then."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's
    # A wrong guess would delete what a living process writes: only a known and
    # different start says that the id is used again.
    now = start_id(pid)
    return UNKNOWN in (started, now) or started == now
