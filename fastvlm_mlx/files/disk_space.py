"""Free disk space, and sizes in bytes as text."""

import shutil
from pathlib import Path

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.cache_dir import cache_dir, is_in_cache, way_out
from fastvlm_mlx.files.user_path import expand_user


def free_space(folder: str | Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    place = expand_user(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_free_space(folder: str | Path, needed: int) -> None:
    """Checks that `needed` bytes fit on the disk of `folder`.

    Raises:
        OptionError: they do not.
    """
    free = free_space(folder)
    if needed > free:
        cached = is_in_cache(expand_user(folder).absolute())
        other = way_out(cache_dir(), full=True) if cached else "choose another place"
        raise OptionError(
            f"{folder}: {format_size(needed)} needed, {format_size(free)} free; "
            f"free some space or {other}"
        )


def format_size(size: int) -> str:
    """A number of bytes in decimal units, such as `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
