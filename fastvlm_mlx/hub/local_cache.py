"""The local cache: where conversions are kept, and what of a repository is there."""

import hashlib
import os
import re
import shutil
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.hub.conversion_record import recorded_fault
from fastvlm_mlx.hub.snapshot import files_read, snapshot

# Raised whenever convert/ writes something else than before: conversions are then made
# again. `model.config.FORMAT_VERSION` counts the formats we can read.
CONVERSION_VERSION = 1

_SNAPSHOT = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")


def converted_dir(source: str | Path) -> Path:
    """Where the conversion of `source` is or will be kept.

    `source` is what `hub.locate` returns: a folder, file or archive. The folder's
    name holds the repository and commit of a hub snapshot, or else a hash of the
    source's path and one of the sizes and times of its files. A changed source and
    another CONVERSION_VERSION give another folder.

    Raises:
        CheckpointError: `source` does not exist.
    """
    place = expand_user(source).resolve()
    if found := _SNAPSHOT.search(place.as_posix()):
        name, state = found["repo"], found["commit"][:12]
    elif place.exists():
        # MLX takes only paths that are text; a name may hold any byte.
        readable = place.name.encode("utf-8", "replace").decode()
        name = f"{readable}-{_digest(str(place))[:8]}"
        state = _digest(_state(place))[:12]
    else:
        raise CheckpointError(f"{source}: no such file or folder; check the path")
    return _conversions() / f"{name}@{state}-v{CONVERSION_VERSION}"


def converted_of(repo: str, revision: str = "main") -> Path | None:
    """A finished conversion of a hub repository, or None.

    It is used when the snapshot it was made from has been deleted to save space.
    """
    commit = revision[:12] if re.fullmatch("[0-9a-f]{40}", revision) else "*"
    if commit == "*" and revision != "main":
        return None
    name = f"{repo.replace('/', '--')}@{commit}-v{CONVERSION_VERSION}"
    found = [
        folder
        for folder in _conversions().glob(name)
        if (folder / "config.json").is_file() and recorded_fault(folder) is None
    ]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def is_conversion(place: Path) -> bool:
    """Whether `place` is a conversion in the cache, by its path."""
    return place.parent == _conversions()


def cached(repo: str, revision: str) -> Path | None:
    """The whole snapshot of a hub repository or, if it was deleted, its conversion."""
    return snapshot(repo, revision) or converted_of(repo, revision)


def drop_superseded(target: Path) -> None:
    """Delete conversions that `target` replaces.

    Those are of the same source, by another CONVERSION_VERSION or, for a local source,
    of an earlier state. Conversions of other commits stay.
    """
    name = re.compile(r"(?P<source>.+)@(?P<state>\w{12})-v(?P<version>\d+)(?P<rest>.*)")
    new = name.fullmatch(target.name)
    if new is None or not target.is_dir():
        return
    on_hub = "--" in new["source"]
    for other in target.parent.iterdir():
        old = name.fullmatch(other.name)
        if old is None or other == target or other.name.startswith("."):
            continue
        same = old["source"] == new["source"] and old["rest"] == new["rest"]
        if same and (old["version"] != new["version"] or not on_hub):
            shutil.rmtree(other, ignore_errors=True)


def _conversions() -> Path:
    return cache_dir() / "converted"


def _state(place: Path) -> str:
    if place.is_file():
        files = {place.name: place}
    else:
        found = (path for path in place.rglob("*") if path.is_file())
        files = {path.relative_to(place).as_posix(): path for path in found}
        files = {name: files[name] for name in sorted(files_read(files))}
    stats = {name: path.stat() for name, path in files.items()}
    return repr([(n, s.st_size, s.st_mtime_ns) for n, s in stats.items()])


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()
