"""Sizes of files in words, and a check that an output fits on its disk."""

import shutil
from pathlib import Path

from fastvlm_mlx.errors import OptionError


def check_free_space(folder: str | Path, needed: int) -> None:
    """Raise OptionError unless `needed` bytes fit on the disk of `folder`.

    The folder need not exist yet.
    """
    place = Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OptionError(
            f"{folder}: {format_size(needed)} needed, {format_size(free)} free; "
            "free some space or choose another place"
        )


def format_size(size: int) -> str:
    """Say a number of bytes as people do: `1.2 GB`, decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
