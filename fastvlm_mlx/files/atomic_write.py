"""Atomic output: files and folders are written beside their place, then renamed.

What is being written is called `.NAME.partial-HOST-PID-RANDOM`, so nothing unfinished
ever carries the asked-for name. Any failure removes it; after a kill -9 or a power cut
the next run does.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.temporary_names import (
    partial_name,
    remove,
    remove_stale,
    signals_unwind,
    stem,
    sync,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Only writing fails with these, whatever path the error names.
_WRITING = _FULL | {errno.EROFS, errno.EFBIG}
# MLX reports a failed write as RuntimeError, without errno (0.32: "[write] Unable to
# write N bytes to file.", "[save_safetensors] Failed to open file PATH").
_MLX_WRITE = re.compile(r"^\[(write|save_\w+)\]")


@contextlib.contextmanager
def staged_folder(
    out: str | Path,
    *,
    overwrite: bool = False,
    source: str | Path | None = None,
    first_wins: bool = False,
) -> Iterator[Path]:
    """Gives an empty folder beside `out` that becomes `out` when the block succeeds.

    `overwrite` keeps what `out` holds until the new folder is complete. `source` is
    what is being read: `out` may not lie in it or around it. With `first_wins`, another
    process that finished the same `out` meanwhile is no error; its folder stays.

    Raises:
        OptionError: `out` exists, cannot be written, or the disk fills up.
    """
    with _staged(out, overwrite, source, first_wins, folder=True) as partial:
        yield partial


@contextlib.contextmanager
def staged_file(
    out: str | Path, *, overwrite: bool = False, source: str | Path | None = None
) -> Iterator[Path]:
    """Gives a path beside `out` to write; it becomes `out` when the block succeeds.

    Raises:
        OptionError: as `staged_folder`, and if the block wrote nothing.
    """
    with _staged(out, overwrite, source, False, folder=False) as partial:
        yield partial


@contextlib.contextmanager
def _staged(
    out: str | Path,
    overwrite: bool,
    source: str | Path | None,
    first_wins: bool,
    folder: bool,
) -> Iterator[Path]:
    # A link is followed: the folder it points to is made or replaced, not the link.
    try:
        place = Path(out).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a loop of links, an unknown ~user
        raise OptionError(f"{out}: not a usable path; name another output") from error
    if not place.name:
        raise OptionError(f"{out}: has no name to write to; name a new path")
    if source is not None:
        _check_apart(out, place, Path(source).expanduser().resolve(), folder)
    partial = None
    made = _make_parents(out, place.parent)
    try:
        remove_stale(place.parent, place.name)
        if place.exists() and not first_wins:
            _check_replaceable(out, place, overwrite, folder)
        partial = place.parent / partial_name(place.name)
        with signals_unwind():
            try:
                if folder:
                    partial.mkdir()
                yield partial
                if not partial.exists():
                    raise OptionError(f"{out}: nothing was written")
                sync(partial)
                _publish(partial, place, out, overwrite, first_wins)
            finally:
                remove(partial)
        made = []  # they hold the output now
    except FastVLMError as error:
        # Checks inside the block know only the hidden name.
        if partial is None or str(partial) not in str(error):
            raise
        raise type(error)(str(error).replace(str(partial), str(out))) from error
    except (OSError, RuntimeError) as error:
        if (failure := _write_failure(error, out, place)) is not None:
            raise failure from error
        raise
    finally:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def check_output(out: str | Path, *, overwrite: bool) -> None:
    """Refuses an `out` that `staged_folder` would refuse, before any work is done.

    Raises:
        OptionError: it exists and `overwrite` is not set, or may not be replaced.
    """
    place = Path(out).expanduser()
    if place.exists():
        _check_replaceable(out, place.resolve(), overwrite, folder=True)


def _check_apart(out: str | Path, place: Path, source: Path, folder: bool) -> None:
    if place == source:
        raise OptionError(f"{out}: is the source itself; name another output")
    if source.is_dir() and place.is_relative_to(source):
        raise OptionError(f"{out}: lies inside the source; name an output outside it")
    if folder and source.is_relative_to(place):
        raise OptionError(f"{out}: holds the source; name an output beside it")


def _check_replaceable(
    out: str | Path, place: Path, overwrite: bool, folder: bool
) -> None:
    if not overwrite:
        raise OptionError(
            f"{out}: exists already; name another output or pass --overwrite"
        )
    if place.is_dir() != folder:
        kind, wanted = ("folder", "file") if place.is_dir() else ("file", "folder")
        raise OptionError(f"{out}: is a {kind}, not a {wanted}; name another output")
    # `--overwrite ~` must not delete the home folder.
    for keep in (Path.cwd(), Path.home()):
        if keep.resolve().is_relative_to(place):
            raise OptionError(f"{out}: holds {keep}; name another output")
    if os.path.ismount(place):
        raise OptionError(f"{out}: is a mounted disk; name a folder on it")


def _make_parents(out: str | Path, parent: Path) -> list[Path]:
    """Make the folder `out` goes to; the list is what was new, deepest first."""
    missing = []
    try:
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(parent))
    except OSError as error:
        raise OptionError(
            f"{out}: cannot make its folder ({_reason(error)}); name another output"
        ) from error
    return missing


def _publish(
    partial: Path, place: Path, out: str | Path, overwrite: bool, first_wins: bool
) -> None:
    if partial.is_file():
        if overwrite:
            os.replace(partial, place)
        else:
            _rename_new(partial, place, out)
        return
    # Two renames: between them only the hidden name holds the old folder, and
    # `remove_stale` puts it back if the process dies right there.
    old = place.parent / partial_name(place.name, "replaced")
    if overwrite and place.exists():
        os.rename(place, old)
    try:
        os.rename(partial, place)
    except BaseException as error:
        if old.exists() and not place.exists():
            os.rename(old, place)
        if not isinstance(error, OSError) or not place.exists():
            raise
        if not first_wins:  # somebody made it while we were working
            raise OptionError(
                f"{out}: exists already; name another output or pass --overwrite"
            ) from error
    remove(old)


def _rename_new(partial: Path, place: Path, out: str | Path) -> None:
    # rename() would silently replace a file that appeared meanwhile; link() refuses.
    try:
        os.link(partial, place)
    except FileExistsError as error:
        raise OptionError(
            f"{out}: exists already; name another output or pass --overwrite"
        ) from error
    except OSError:  # exFAT and some network disks have no hard links
        os.rename(partial, place)


def _write_failure(
    error: OSError | RuntimeError, out: str | Path, place: Path
) -> OptionError | None:
    """The OptionError for an error of writing; None for anything else."""
    if isinstance(error, OSError):
        path = Path(str(error.filename or ""))
        beside = path.is_relative_to(place) or any(
            part.startswith(stem(place.name)) for part in path.parts
        )
        if not beside and error.errno not in _WRITING:
            return None
        full = error.errno in _FULL
        reason = _reason(error)
    else:
        if not _MLX_WRITE.match(str(error)):
            return None
        full = "Unable to write" in str(error)
        reason = "cannot be opened"
    if full:
        # Said after the partial output is gone: what the next try will find.
        free = shutil.disk_usage(place.parent).free
        return OptionError(
            f"{out}: does not fit on its disk ({format_size(free)} free); "
            "free some space or name an output on another disk"
        )
    return OptionError(f"{out}: cannot be written ({reason}); name another output")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
