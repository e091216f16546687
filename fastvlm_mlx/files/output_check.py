"""Refuses an output that cannot or must not be written, before any work is done."""

import errno
import os
import stat
from pathlib import Path

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.cache_dir import way_out
from fastvlm_mlx.files.own_output import OutputKind, find_foreign
from fastvlm_mlx.files.temporary_names import partial_name, reason_of, remove_stale
from fastvlm_mlx.files.user_path import expand_user


def check_output(
    out: str | Path,
    *,
    overwrite: bool,
    kind: OutputKind | None = None,
    source: str | Path | None = None,
) -> None:
    """Refuses an `out` that `staged_folder` would refuse, before any work is done.

    Args:
        out: the folder to write.
        overwrite: as for `staged_folder`.
        kind: as for `staged_folder`.
        source: what will be read. Only a checkpoint's folder or a file is looked at:
            any other word may name a model of the hub.
    Raises:
        OptionError: it exists and `overwrite` is not set, was not written by this
            program, or nothing can be made there.
    """
    place = resolve_output(out)
    local = Path(os.path.expanduser(source or ""))
    if source and (local.is_file() or (local / "config.json").is_file()):
        check_apart(out, place, local.resolve(), folder=True)
    made = make_parents(out, place.parent)
    try:
        remove_stale(place.parent, place.name)
        check_replaceable(out, place, overwrite, folder=True, kind=kind)
        probe = place.parent / partial_name(place.name)
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise cannot_write(out, place, reason_of(error)) from error
    finally:
        remove_empty(made)


def resolve_output(out: str | Path) -> Path:
    """The absolute path that `out` stands for: `~` is expanded, links are followed.

    Raises:
        OptionError: there is none, or it is a device, a pipe or a socket.
    """
    if str(out) == "-":
        raise OptionError(f"{out}: cannot be written to standard output; name a path")
    try:
        path = Path(out).expanduser()
        place = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # a loop of links, an unknown ~user, a zero byte
        raise OptionError(f"{out}: not a usable path; name another output") from error
    if not place.name:
        raise OptionError(f"{out}: has no name to write to; name a new path")
    try:
        # Of the path itself: `/dev/stdout` leads to no path that could be looked at.
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise cannot_write(out, place, reason_of(error)) from error
        return place
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OptionError(
            f"{out}: is a device, a pipe or a socket; name another output"
        )
    return place


def check_apart(out: str | Path, place: Path, source: Path, folder: bool) -> None:
    """Refuses to write into, over or around what is being read."""
    if place == source:
        raise OptionError(f"{out}: is the source itself; name another output")
    if source.is_dir() and place.is_relative_to(source):
        raise OptionError(f"{out}: lies inside the source; name an output outside it")
    if folder and source.is_relative_to(place):
        raise OptionError(f"{out}: holds the source; name an output beside it")


def check_replaceable(
    out: str | Path,
    place: Path,
    overwrite: bool,
    folder: bool,
    kind: OutputKind | None = None,
) -> None:
    """Refuses an existing `place`, unless it is ours and `overwrite` is set.

    Raises:
        OptionError: names `out` and what stands in the way.
    """
    try:
        is_folder = stat.S_ISDIR(os.stat(place).st_mode)
    except OSError:
        return  # nothing yet, or another run set it aside
    if is_folder != folder:
        is_, wanted = ("folder", "file") if is_folder else ("file", "folder")
        raise OptionError(f"{out}: is a {is_}, not a {wanted}; name another output")
    # `--overwrite ~` must not delete the home folder.
    for keep in (expand_user("~"), working_folder()):
        if folder and keep is not None and keep.resolve().is_relative_to(place):
            raise OptionError(f"{out}: holds {keep}; name another output")
    if os.path.ismount(place):
        raise OptionError(f"{out}: is a mounted disk; name a folder on it")
    if folder and (foreign := _settled_foreign(place, kind)) is not None:
        raise OptionError(f"{out}: {foreign}; name another output")
    if not overwrite:
        raise exists_already(out)


def _settled_foreign(place: Path, kind: OutputKind | None) -> str | None:
    """`find_foreign` of a folder that no other run exchanged meanwhile."""
    while True:
        before = _inode(place)
        if before is None:
            return None
        try:
            foreign = find_foreign(place, kind)
        except OSError as error:
            foreign = f"cannot be looked into ({reason_of(error)})"
        if foreign is None or before == _inode(place):
            return foreign


def _inode(place: Path) -> int | None:
    try:
        return os.lstat(place).st_ino
    except OSError:
        return None


def exists_already(out: str | Path) -> OptionError:
    """The error for an output that `overwrite` would replace."""
    return OptionError(
        f"{out}: exists already; name another output or pass --overwrite"
    )


def working_folder() -> Path | None:
    """The working folder; None if it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def make_parents(out: str | Path, parent: Path) -> list[Path]:
    """Makes the folder that `out` goes to.

    Returns:
        what was made, deepest first.
    Raises:
        OptionError: it cannot be made.
    """
    missing: list[Path] = []
    made: list[Path] = []
    existing = parent
    try:
        while not existing.exists():
            missing.append(existing)
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(existing))
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            made.insert(0, folder)
    except OSError as error:
        remove_empty(made)
        raise OptionError(
            f"{out}: cannot make its folder ({reason_of(error)}); {way_out(parent)}"
        ) from error
    return made


def remove_empty(folders: list[Path]) -> None:
    """Removes those of `folders`, deepest first, that are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def cannot_write(out: str | Path, place: Path, reason: str) -> OptionError:
    return OptionError(f"{out}: cannot be written ({reason}); {way_out(place)}")
