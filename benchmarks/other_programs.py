"""How much of the machine other programs used while something was measured."""

import os
import time
from pathlib import Path


class OtherPrograms:
    """CPU time of all programs but this one and the children it waited for.

    Time that a hypervisor gave to other machines counts too. Known on Linux alone.
    """

    def __init__(self, stat: Path = Path("/proc/stat")):
        self._stat = stat
        self._started = self._now()

    def cores(self) -> float | None:
        """How many cores they kept busy on average since this was made."""
        before, now = self._started, self._now()
        if before is None or now is None:
            return None
        spent = (now[1] - before[1]) - (now[2] - before[2])
        return max(spent, 0.0) / max(now[0] - before[0], 1e-9)

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds: the clock's, all programs', ours."""
        try:
            line = self._stat.read_text().splitlines()[0]
        except OSError:
            return None
        user, nice, system, _, _, *interrupts = map(int, line.split()[1:9])
        busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, sum(os.times()[:4])
