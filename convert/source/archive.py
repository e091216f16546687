"""Unpacks a checkpoint from a .zip, as Apple publishes them.

The archive is untrusted. Its directory (names, sizes, kinds of entries) is checked
before anything is written, and no entry may be larger than the directory declares.
"""

import contextlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from fastvlm_mlx.errors import CheckpointError, OptionError, quoted
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.disk_space import check_free_space, format_size
from fastvlm_mlx.files.temporary_names import temporary_folder
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.hub.snapshot import files_read

MAX_BYTES = 64 * 10**9  # the largest FastVLM, 7B in float32, is 31 GB
MAX_RATIO = 50  # unpacked / packed; weights compress by about 1.3
MAX_ENTRIES = 10_000
_SMALL = 64 * 10**6  # bytes; MAX_RATIO is not applied below
_CHUNK = 1 << 20
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeError)


@contextlib.contextmanager
def unpack_archive(
    path: str | Path,
    *,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Path]:
    """Unpacks the checkpoint folder of a .zip; it is removed when the block ends.

    The checkpoint folder is the one that holds config.json or, if there is none, the
    weights. Only files that a reader of ours opens are unpacked.

    Args:
        path: the archive.
        folder: where the temporary folder is made; by default in our cache.
        on_progress: called with (bytes done, bytes in all).
    Raises:
        CheckpointError: not a sound archive of one checkpoint, or the disk is full.
    """
    path = expand_user(path)
    with _archive_errors(path):
        archive = zipfile.ZipFile(_check_file(path))
    with archive:
        entries = _check_entries(path, archive.infolist())
        top = _checkpoint_prefix(path, entries)
        inside = {n[len(top) :]: e for n, e in entries.items() if n.startswith(top)}
        wanted = {name: inside[name] for name in files_read(inside)}
        total = sum(entry.file_size for entry in wanted.values())
        _check_size(path, archive, entries, total)
        parent = folder or cache_dir() / "unpacked"
        try:
            check_free_space(parent, total)
        except OptionError as error:
            reason = str(error).rpartition("; ")[0]
            raise CheckpointError(
                f"{path}: cannot be unpacked ({reason}); set FASTVLM_CACHE to a folder"
                " with room"
            ) from error
        with contextlib.ExitStack() as stack:
            with _archive_errors(path):
                place = stack.enter_context(temporary_folder(parent, path.stem))
                _extract(archive, wanted, place, total, on_progress)
            yield place


def _check_file(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file; pass a .zip")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            cut = file.read(4) == b"PK\x03\x04"
        # A zip's directory is at its end: a file that only starts as one was cut.
        raise CheckpointError(
            f"{path}: cut short; download it again"
            if cut
            else f"{path}: not a zip archive; pass a .zip or a folder"
        )
    return path


def _check_entries(
    path: Path, listed: list[zipfile.ZipInfo]
) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name; raises CheckpointError for a suspicious entry."""
    if len(listed) > MAX_ENTRIES:
        raise CheckpointError(
            f"{path}: {len(listed)} entries, {MAX_ENTRIES} at most; not a checkpoint"
        )
    files: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for entry in listed:
        name = entry.filename
        if fault := _fault(entry):
            raise CheckpointError(
                f"{path}: entry {name!r:.200} {fault}; do not trust it"
            )
        if entry.flag_bits & 1:
            raise CheckpointError(f"{path}: is encrypted; unpack it, pass the folder")
        if entry.is_dir():
            continue
        # Names that differ in case only are one file on most Macs.
        if name.casefold() in seen:
            raise CheckpointError(
                f"{path}: entry {name!r:.200} comes twice; do not trust it"
            )
        seen.add(name.casefold())
        files[name] = entry
    for name in files:
        for parent in PurePosixPath(name.casefold()).parents:
            if str(parent) in seen:
                raise CheckpointError(
                    f"{path}: entry {name!r:.200} lies in a file; do not trust it"
                )
    return {n: e for n, e in files.items() if not _is_junk(n)}


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """What makes an entry's name or kind suspicious, as the end of a sentence."""
    # orig_filename: ZipInfo cuts names at a NUL.
    name = entry.orig_filename
    parts = name.split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.startswith("/") or "\\" in name or ":" in name:
        return "is an absolute or foreign path"
    if ".." in parts:
        return "points outside the archive"
    if "" in parts[:-1] or "." in parts or any(not c.isprintable() for c in name):
        return "has an improper name"
    if any(_DEVICE.fullmatch(part) for part in parts):
        return "is named as a device"
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device"
    return None


def _is_junk(name: str) -> bool:
    return any(p == "__MACOSX" or p.startswith(".") for p in name.split("/"))


def _checkpoint_prefix(path: Path, names: dict[str, zipfile.ZipInfo]) -> str:
    """The prefix of the checkpoint's files: "" or "folder/" or "a/b/"."""
    weights = (".safetensors", ".bin", ".pt", ".pth")
    outside = [n for n in names if ".mlpackage/" not in n]
    tops = {
        n[: -len("config.json")] for n in outside if f"/{n}".endswith("/config.json")
    }
    if not tops:
        tops = {n[: n.rfind("/") + 1] for n in outside if n.endswith(weights)}
    if not tops:
        raise CheckpointError(
            f"{path}: holds neither config.json nor weights; not a checkpoint"
        )
    # Training leaves folders such as checkpoint-1000/ below the finished model.
    depth = min(top.count("/") for top in tops)
    first, *others = sorted(top for top in tops if top.count("/") == depth)
    if others:
        raise CheckpointError(
            f"{path}: holds several models ({first}, {others[0]}); "
            "unpack it, pass one folder"
        )
    return first


def _check_size(
    path: Path,
    archive: zipfile.ZipFile,
    entries: dict[str, zipfile.ZipInfo],
    total: int,
) -> None:
    packed = path.stat().st_size
    whole = sum(entry.file_size for entry in entries.values())
    for entry in entries.values():
        if (
            entry.header_offset < 0
            or entry.header_offset + entry.compress_size > packed
        ):
            raise CheckpointError(f"{path}: damaged; download it again")
    if whole > max(_SMALL, MAX_RATIO * packed):
        raise CheckpointError(
            f"{path}: {format_size(packed)} would become {format_size(whole)}; "
            "a zip bomb, do not trust it"
        )
    if total > MAX_BYTES:
        raise CheckpointError(
            f"{path}: {format_size(total)} unpacked, {format_size(MAX_BYTES)} at most; "
            "unpack it, pass the folder"
        )


def _extract(
    archive: zipfile.ZipFile,
    wanted: dict[str, zipfile.ZipInfo],
    place: Path,
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    done = 0
    for name, entry in wanted.items():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        left = entry.file_size
        with archive.open(entry) as source, target.open("xb") as file:
            while chunk := _read(source):
                left -= len(chunk)
                if left < 0:
                    raise zipfile.BadZipFile("more than was declared")
                file.write(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
        if left:
            raise EOFError("less than was declared")


def _read(source: IO[bytes]) -> bytes:
    """The next bytes of an entry; a BadZipFile if they cannot be unpacked."""
    try:
        return source.read(_CHUNK)
    except Exception as error:
        # Each decompressor has errors of its own: LZMAError, an OSError without a
        # number from bz2, MemoryError for a dictionary of any size that is declared.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise zipfile.BadZipFile(str(error)) from error


@contextlib.contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Turns the exceptions of zipfile and of the disk into CheckpointErrors."""
    try:
        yield
    except NotImplementedError as error:  # a compression Python lacks
        raise CheckpointError(
            f"{path}: packed in a way not known here ({quoted(error)}); "
            "unpack it, pass the folder"
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: damaged; download it again") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(
            f"{path}: cannot be unpacked ({reason}); "
            "set FASTVLM_CACHE to a folder with room"
        ) from error
