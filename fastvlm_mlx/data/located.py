"""Located: a row of a data file, whatever its shape, with the line it begins at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError, DataError
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.model_file import check_pointer
from fastvlm_mlx.files.read_input import read_input

LARGEST = 1 << 32  # bytes of a data file, which is held in memory
LARGEST_STREAM = 1 << 28  # of a pipe or a device, which may have no end
_WIDE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16


@dataclass(frozen=True)
class Located:
    """A row's values by name, or what is wrong with it; `line` counts from 1."""

    line: int
    values: Mapping[str, Any] | None
    fault: str = ""


def read_bytes(path: Path) -> bytes:
    """The content of a data file without a byte order mark; never empty.

    Raises:
        DataError: it cannot be read, is empty, too large, or UTF-16.
    """
    try:
        limit = LARGEST if path.is_file() else LARGEST_STREAM
        if path.is_file() and path.stat().st_size > limit:
            raise _too_large(path, limit)
        data = read_input(path, limit)
        check_pointer(path, data)
    except CheckpointError as fault:
        raise DataError(str(fault)) from None
    except OSError as fault:
        reason = (fault.strerror or str(fault)).lower()
        raise DataError(f"{path}: {reason}; check the path") from fault
    if len(data) > limit:
        raise _too_large(path, limit)
    if data.startswith(_WIDE):
        raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise DataError(f"{path}: is empty; give a file with rows")
    return data


def _too_large(path: Path, limit: int) -> DataError:
    return DataError(f"{path}: more than {format_size(limit)}; split it")


def is_text(value: str) -> bool:
    """Whether a text can be written as UTF-8: `surrogateescape` marks what was not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
