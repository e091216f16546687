"""Reads a JSON file that must hold one object."""

import codecs
import json
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.model_file import check_pointer, check_regular, unreadable

# A hundred times the largest vocabulary.
_LARGEST = 1 << 30


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Reads one JSON object from `path`; an `optional` file that is not there is {}.

    A byte order mark of UTF-8 is skipped.

    Raises:
        CheckpointError: the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(read_text(path))
    except FileNotFoundError as fault:
        if path.is_symlink():
            raise unreadable(path, fault) from fault
        if optional:
            return {}
        raise CheckpointError(
            f"{path}: no such file; a model folder needs it"
        ) from fault
    except OSError as fault:
        raise unreadable(path, fault) from fault
    # JSONDecodeError and UnicodeDecodeError are ValueErrors, and so is a number of
    # more digits than Python reads.
    except (ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{path}: not valid JSON ({fault}); download the file again"
        ) from fault
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path}: holds a {type(values).__name__}, not an object;"
            " download the file again"
        )
    return values


def read_text(path: Path) -> str:
    """The text of a JSON file, without a byte order mark.

    Raises:
        CheckpointError: no regular file, empty, a git-lfs pointer, or of another
            encoding.
        OSError, UnicodeDecodeError: as `open` and `bytes.decode` raise them.
    """
    check_regular(path)
    with path.open("rb") as opened:
        data = opened.read(_LARGEST)
    check_pointer(path, data)
    if not data:
        raise CheckpointError(f"{path}: is empty; download the file again")
    if len(data) == _LARGEST:
        raise CheckpointError(
            f"{path}: is larger than any JSON of a model; download the file again"
        )
    if not data.strip(b"\0"):
        raise CheckpointError(f"{path}: holds only zeros; download the file again")
    # JSON starts with two characters of ASCII: a zero byte there is another encoding.
    wide = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if data.startswith(wide) or b"\0" in data[:2]:
        raise CheckpointError(f"{path}: is UTF-16 or UTF-32 text; save it as UTF-8")
    return data.decode("utf-8-sig")
