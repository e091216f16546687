"""Temporary names for unfinished output, and clean-up of those whose process died.

Unfinished output is called `.NAME.partial-HOST-PID-RANDOM`. The name tells any later
process whether the writer is still alive, so what a kill -9 leaves is cleared by the
next run and what a running neighbour writes is left alone.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_DAY = 24 * 60 * 60


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder in `parent`, removed at the end whatever happens.

    Those that killed processes left under the same `name` are removed first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent, name)
    folder = parent / partial_name(name)
    with signals_unwind():
        try:
            folder.mkdir()
            yield folder
        finally:
            remove(folder)


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def stem(name: str) -> str:
    """What all hidden names beside `name` begin with."""
    # File names end at 255 bytes, and ours adds about 40.
    return "." + name.encode()[:180].decode(errors="ignore")


def partial_name(name: str, kind: str = "partial") -> str:
    """A fresh hidden name beside `name`, telling who writes it."""
    return f"{stem(name)}.{kind}-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def remove_stale(parent: Path, name: str) -> None:
    """Clear what dead processes left beside `name`; put back what they set aside."""
    pattern = re.compile(
        re.escape(stem(name)) + r"\.(partial|replaced)-(\w{6})-(\d+)-\w{8}"
    )
    with contextlib.suppress(OSError):
        for path in list(parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match is None or not _is_stale(path, match[2], int(match[3])):
                continue
            place = parent / name
            if match[1] == "replaced" and not place.exists():
                os.rename(path, place)
            else:
                remove(path)


def _is_stale(path: Path, host: str, pid: int) -> bool:
    # On a shared disk the process may live on another machine: then only age tells.
    # Age also settles process ids that are used again. ctime: a rename renews it.
    if time.time() - path.lstat().st_ctime > _DAY:
        return True
    if host != _host():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # alive, and somebody else's
    return False


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
