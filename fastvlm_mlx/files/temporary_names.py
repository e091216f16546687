"""Temporary names for unfinished output, and clean-up of those whose process died.

Unfinished output is called `.NAME.partial-HOST-PID-START-RANDOM`. The name tells any
later process whether the writer is still alive, so what a kill -9 leaves is cleared by
the next run and what a running neighbour writes is left alone.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.cache_dir import way_out
from fastvlm_mlx.files.process_identity import (
    UNKNOWN,
    host_id,
    is_running,
    own_start_id,
)

# Of another machine's leftovers, whose process cannot be asked for.
_STALE_SECONDS = 7 * 24 * 60 * 60


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder in `parent`, removed at the end whatever happens.

    Those that killed processes left under the same `name` are removed first.

    Raises:
        OptionError: it cannot be made.
    """
    folder = parent / partial_name(name)
    with signals_unwind():
        try:
            try:
                parent.mkdir(parents=True, exist_ok=True)
                remove_stale(parent, name)
                folder.mkdir()
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise OptionError(
                    f"{parent}: a folder in it cannot be made ({reason_of(error)});"
                    f" {way_out(parent, full=full)}"
                ) from error
            yield folder
        finally:
            remove(folder)


def stem(name: str) -> str:
    """What all hidden names beside `name` begin with."""
    # File names end at 255 bytes, and ours adds about 50.
    short = name
    while len(os.fsencode(short)) > 180:
        short = short[:-1]
    if short != name:  # neighbours that begin alike stay apart
        short += "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return "." + short


def partial_name(name: str, kind: str = "partial") -> str:
    """A fresh hidden name beside `name`, telling who writes it."""
    pid = os.getpid()
    writer = f"{host_id()}-{pid}-{own_start_id(pid)}"
    return f"{stem(name)}.{kind}-{writer}-{secrets.token_hex(4)}"


def remove_stale(parent: Path, name: str) -> None:
    """Clear what dead processes left beside `name`; put back what they set aside."""
    pattern = re.compile(
        re.escape(stem(name)) + r"\.(partial|replaced)-(\w{6})-(\d+)-(?:(\w{8})-)?\w{8}"
    )
    with contextlib.suppress(OSError):
        for path in list(parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match is None or not _is_stale(path, *match.groups()[1:]):
                continue
            place = parent / name
            if match[1] == "replaced" and not os.path.lexists(place):
                os.rename(path, place)
            else:
                remove(path)


def _is_stale(path: Path, host: str, pid: str, started: str | None) -> bool:
    if host == host_id():
        return not is_running(int(pid), started or UNKNOWN)
    # On a shared disk the process may live on another machine: then only age tells,
    # by the disk's clock, as this machine's may be days ahead. ctime: a rename renews.
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        now = os.fstat(probe.fileno()).st_ctime
    return now - path.lstat().st_ctime > _STALE_SECONDS


def reason_of(error: OSError) -> str:
    """The system's reason in lower case, without paths."""
    return (error.strerror or str(error)).lower()


def remove(path: Path) -> None:
    """Delete a file or folder, as far as it can be deleted."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """Bring a file, or all files of a folder, to the disk."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Let a terminated process unwind, so that what it was writing is removed."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before: dict[int, Callable[..., object] | int | None] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nobody else handles it
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
