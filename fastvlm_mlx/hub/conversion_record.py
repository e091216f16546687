"""The record of a conversion in the cache: which files it has, to tell it is whole.

It holds the size of every file and a checksum of all but the weights, which are too
large to be read through at every start.
"""

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.temporary_names import partial_name, remove

RECORD = ".conversion.json"
_VERSION = 1
# A tokenizer has 11 MB; weights beyond this are known by their size alone.
_MAX_SUMMED = 64_000_000


def write_record(folder: Path) -> None:
    """Notes the files of a finished conversion; on a disk that refuses, it is left."""
    files = {name: _entry(path) for name, path in _files(folder).items()}
    temporary = folder / f"{RECORD}-{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({"version": _VERSION, "files": files}))
        os.replace(temporary, folder / RECORD)


def has_record(folder: Path) -> bool:
    return _read(folder) is not None


def recorded_fault(folder: Path) -> str | None:
    """How a conversion differs from its record: None if not, or if there is none."""
    recorded = _read(folder)
    if recorded is None:
        return None
    found = _files(folder)
    for name, entry in recorded.items():
        if name not in found:
            return f"{name} is missing"
        size = found[name].stat().st_size
        if size != entry.get("size"):
            return f"{name} has {size} bytes instead of {entry.get('size')}"
        if _entry(found[name]) != entry:
            return f"{name} has changed"
    # JSON files are read by their names, and weights if no others are there.
    extra = (name for name in found if name not in recorded and name.endswith(".json"))
    return next((f"{name} does not belong to it" for name in extra), None)


@contextlib.contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Moves a damaged conversion away while another is made; puts it back if that
    fails, and else removes it."""
    old = folder.parent / partial_name(folder.name, "replaced")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        os.rename(folder, old)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if not os.path.lexists(folder):
                os.rename(old, folder)
        raise
    finally:
        if old.is_symlink():
            old.unlink()
        remove(old)


def _read(folder: Path) -> dict[str, dict[str, int]] | None:
    try:
        record: dict[str, Any] = read_json(folder / RECORD)
    except CheckpointError:
        return None
    files = record.get("files")
    if record.get("version") != _VERSION or not isinstance(files, dict):
        return None
    return files if all(isinstance(e, dict) for e in files.values()) else None


def _files(folder: Path) -> dict[str, Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: named[name] for name in sorted(named) if not _is_hidden(name)}


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _entry(file: Path) -> dict[str, int]:
    size = file.stat().st_size
    if file.suffix == ".safetensors" or size > _MAX_SUMMED:
        return {"size": size}
    return {"size": size, "crc32": zlib.crc32(file.read_bytes())}
