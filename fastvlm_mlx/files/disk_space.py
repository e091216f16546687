"""Free disk space, and sizes in bytes as text."""

import re
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


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)", re.IGNORECASE)
_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}


def parse_size(text: str) -> int:
    """Bytes of a text such as `2GB` or `1.5 MB`, in decimal units.

    Raises:
        OptionError: the text is of another form, or less than 1 MB.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[match[2].lower()])
    if size < 1_000_000:
        raise OptionError(f"size {text!r:.200}: give 1MB or more, such as 2GB")
    return size


def format_size(size: int) -> str:
    """A number of bytes in decimal units, such as `1.2 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
