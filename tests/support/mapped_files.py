"""What of a file this process has mapped, as Linux tells it."""

import re
from pathlib import Path


def resident(file: Path) -> int | None:
    """Bytes of `file` that are in this process's memory; None if it is not mapped."""
    parts = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M
    )
    own = [part for part in parts if part.partition("\n")[0].endswith(f" {file}")]
    sizes = [re.search(r"^Rss:\s*(\d+) kB", part, re.M) for part in own]
    return sum(1024 * int(size[1]) for size in sizes if size) if own else None
