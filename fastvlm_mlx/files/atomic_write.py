"""Atomic output: files and folders are written beside their place, then renamed.

What is being written is called `.NAME.partial-HOST-PID-START-RANDOM`, so nothing
unfinished ever carries the asked-for name. Any failure removes it; after a kill -9 or a
power cut the next run does.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.output_check import (
    check_apart,
    check_replaceable,
    exists_already,
    make_parents,
    remove_empty,
    resolve_output,
)
from fastvlm_mlx.files.own_output import OutputKind
from fastvlm_mlx.files.temporary_names import (
    partial_name,
    remove,
    remove_stale,
    signals_unwind,
    sync,
)
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.files.write_failure import write_failure


@contextlib.contextmanager
def staged_folder(
    out: str | Path,
    *,
    overwrite: bool = False,
    kind: OutputKind | None = None,
    source: str | Path | None = None,
    first_wins: bool = False,
) -> Iterator[Path]:
    """Gives an empty folder beside `out` that becomes `out` when the block succeeds.

    Args:
        out: the folder to make. A link is followed and stays.
        overwrite: replaces `out` once the new folder is complete, if it is empty or
            an output of `kind`. The mode and the owner stay.
        kind: what is written; None replaces empty folders only.
        source: what is being read: `out` may not lie in it or around it.
        first_wins: another process that finished the same `out` meanwhile is no error;
            its folder stays.
    Raises:
        OptionError: `out` exists, cannot be written, or the disk fills up.
    """
    with _staged(out, overwrite, kind, source, first_wins, folder=True) as partial:
        yield partial


@contextlib.contextmanager
def staged_file(
    out: str | Path, *, overwrite: bool = False, source: str | Path | None = None
) -> Iterator[Path]:
    """Gives a path beside `out` to write; it becomes `out` when the block succeeds.

    With `overwrite` any file is replaced, its mode and owner stay; a device or a pipe
    never is.

    Raises:
        OptionError: as `staged_folder`, and if the block wrote nothing.
    """
    with _staged(out, overwrite, None, source, False, folder=False) as partial:
        yield partial


@contextlib.contextmanager
def _staged(
    out: str | Path,
    overwrite: bool,
    kind: OutputKind | None,
    source: str | Path | None,
    first_wins: bool,
    folder: bool,
) -> Iterator[Path]:
    place = resolve_output(out)
    if source is not None:
        check_apart(out, place, expand_user(source).resolve(), folder)
    partial, free = None, 0
    made = make_parents(out, place.parent)
    try:
        remove_stale(place.parent, place.name)
        if not first_wins:
            check_replaceable(out, place, overwrite, folder, kind)
        partial = place.parent / partial_name(place.name)
        with signals_unwind():
            try:
                if folder:
                    # What may be private stays so while it is written.
                    partial.mkdir(0o700 if place.exists() else 0o777)
                yield partial
                if not partial.exists():
                    raise OptionError(f"{out}: nothing was written")
                sync(partial)
                if folder:
                    _publish_folder(partial, place, out, overwrite, kind, first_wins)
                elif overwrite:
                    check_replaceable(out, resolve_output(out), True, folder)
                    _keep_status(place, partial)
                    os.replace(partial, place)
                else:
                    _rename_new(partial, place, out)
            finally:
                with contextlib.suppress(OSError):
                    free = shutil.disk_usage(place.parent).free
                remove(partial)
        made = []  # they hold the output now
    except FastVLMError as error:
        # Checks inside the block know only the hidden name.
        if partial is None or str(partial) not in str(error):
            raise
        raise type(error)(str(error).replace(str(partial), str(out))) from error
    except (OSError, RuntimeError) as error:
        if (failure := write_failure(error, out, place, free)) is not None:
            raise failure from error
        raise
    finally:
        remove_empty(made)


def _publish_folder(
    partial: Path,
    place: Path,
    out: str | Path,
    overwrite: bool,
    kind: OutputKind | None,
    first_wins: bool,
) -> None:
    # Two renames: between them only the hidden name holds the old folder, and
    # `remove_stale` puts it back if the process dies right there.
    for _ in range(100):
        old = place.parent / partial_name(place.name, "replaced")
        try:
            if overwrite and place.exists():
                with contextlib.suppress(FileNotFoundError):  # a neighbour was faster
                    os.rename(place, old)
                # Hours may have passed since it was looked at, and nobody changes it
                # under its hidden name.
                check_replaceable(out, old, True, True, kind)
                _keep_status(old, partial)
            os.rename(partial, place)
        except BaseException as error:
            _put_back(old, place)
            if not _is_taken(error):
                _show(old, place)
                raise
            # Somebody made it while we were working.
            remove(old)
            if first_wins:
                return
            if not overwrite:
                raise exists_already(out) from error
        else:
            remove(old)
            return
    raise exists_already(out)


def _put_back(old: Path, place: Path) -> None:
    """Gives the old folder its name again, unless a neighbour has it by now."""
    if old.exists() and not place.exists():
        try:
            os.rename(old, place)
        except OSError as error:
            if not _is_taken(error):
                raise


def _show(old: Path, place: Path) -> None:
    """Gives an old folder that could not be put back, and may hold something of the
    user's, a name that is not hidden: `remove_stale` deletes what is."""
    if old.exists():
        os.rename(old, place.with_name(f"{place.name}.{secrets.token_hex(4)}"))


def _is_taken(error: BaseException) -> bool:
    taken = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
    return isinstance(error, OSError) and error.errno in taken


def _keep_status(old: Path, new: Path) -> None:
    """Gives `new`, and the files in it that `old` has too, their mode and owner."""
    pairs = [(old, new)]
    if new.is_dir():
        pairs += [(old / p.relative_to(new), p) for p in new.rglob("*")]
    for before, after in pairs:
        if before.is_symlink() or after.is_symlink():
            continue
        try:
            status = before.stat()
        except OSError:  # only the new one has it, or a neighbour set it aside
            continue
        # Only root may give a file away, and not every disk keeps modes.
        with contextlib.suppress(OSError):
            os.chown(after, status.st_uid, status.st_gid)
        with contextlib.suppress(OSError):
            after.chmod(status.st_mode & 0o7777)


def _rename_new(partial: Path, place: Path, out: str | Path) -> None:
    # rename() would silently replace a file that appeared meanwhile; link() refuses.
    try:
        os.link(partial, place)
    except FileExistsError as error:
        raise exists_already(out) from error
    except OSError:  # exFAT and some network disks have no hard links
        if os.path.lexists(place):
            raise exists_already(out) from None
        os.rename(partial, place)
