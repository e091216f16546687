"""How far a block raises the memory that this process has resident."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastvlm_mlx.peak_memory import peak_memory


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """Gives a function that says, in or after the block, how many bytes were resident
    at most beyond what was at its beginning."""
    if sys.platform == "linux":
        # The highest point begins anew: an earlier one would hide what the block takes.
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory() or 0
    yield lambda: (peak_memory() or 0) - before
