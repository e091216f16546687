"""The most memory that a process had resident so far."""

import re
import resource
import sys
from pathlib import Path

_LINUX = sys.platform == "linux"
_HIGHEST = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def peak_memory(pid: int | None = None) -> int | None:
    """Bytes that a process had resident at most so far.

    Args:
        pid: of a running process; None for this one.
    Returns:
        None if the system does not tell it: of a process that has ended, and outside of
        Linux of any other process.
    """
    if _LINUX:
        # Not `ru_maxrss`: a new program begins with that of the one that started it.
        try:
            status = Path(f"/proc/{pid or 'self'}/status").read_text()
        except OSError:
            status = ""
        if found := _HIGHEST.search(status):
            return int(found[1]) * 1024
    if pid is not None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1024 if _LINUX else 1)  # macOS counts in bytes
