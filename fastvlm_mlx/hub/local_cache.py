"""The local cache: snapshots of hub repositories, and conversions.

huggingface_hub (a third of a second to import) is not used, so a cached model loads
without it and without the network.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.cache_dir import cache_dir, hub_cache_dir

# Raised whenever convert/ writes something else than before: conversions are then made
# again. `model.config.FORMAT_VERSION` counts the formats we can read.
CONVERSION_VERSION = 1

# The files of a checkpoint that some reader of ours opens.
_READ = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.jinja",
    "tokenizer.model",
    "*.mlpackage/*",
    "LICENSE*",
    "ACKNOWLEDGEMENTS*",
    "README.md",
)
_PICKLES = ("*.bin", "*.pt", "*.pth")
_SNAPSHOT = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")


def files_read(names: Iterable[str]) -> list[str]:
    """Of a checkpoint's files, those worth having; pickles only if nothing else is.

    `names` are paths relative to the checkpoint, with forward slashes.
    """
    names = [n for n in names if not any(p.startswith(".") for p in n.split("/"))]
    safe = any(name.endswith(".safetensors") for name in names)
    patterns = _READ if safe else _READ + _PICKLES
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]


def snapshot(repo: str, revision: str = "main") -> Path | None:
    """The whole cached snapshot of a hub repository, if there is one."""
    folder = hub_cache_dir() / f"models--{repo.replace('/', '--')}"
    commit = revision
    if not re.fullmatch("[0-9a-f]{40}", revision):
        try:
            commit = (folder / "refs" / revision).read_text().strip()
        except OSError:
            return None
    found = folder / "snapshots" / commit
    return found if commit and _is_whole(found, _listing(folder, commit)) else None


def converted_dir(source: str | Path) -> Path:
    """Where the conversion of `source` is or will be kept.

    `source` is what `hub.locate` returns: a folder, file or archive. The folder's
    name holds the repository and commit of a hub snapshot, or else a hash of the
    source's path and one of the sizes and times of its files. A changed source and
    another CONVERSION_VERSION give another folder.

    Raises:
        CheckpointError: `source` does not exist.
    """
    place = Path(source).expanduser().resolve()
    if found := _SNAPSHOT.search(place.as_posix()):
        name, state = found["repo"], found["commit"][:12]
    elif place.exists():
        name = f"{place.name}-{_digest(str(place))[:8]}"
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
    found = [f for f in _conversions().glob(name) if (f / "config.json").is_file()]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


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


def _is_whole(folder: Path, listed: list[str] | None) -> bool:
    # A snapshot's files are links, made one by one as their downloads end.
    if listed is not None:
        wanted = files_read(listed)
        return bool(wanted) and all((folder / name).is_file() for name in wanted)
    if not (folder / "config.json").is_file():
        return False
    present = {path.name for path in folder.iterdir() if path.is_file()}
    for kind, index in (
        ("*.safetensors", "model.safetensors.index.json"),
        ("*.bin", "pytorch_model.bin.index.json"),
        ("*.pt*", ""),
    ):
        if any(fnmatchcase(name, kind) for name in present):
            return index not in present or _shards(folder / index) <= present
    return False


def _listing(folder: Path, commit: str) -> list[str] | None:
    """The repository's files, as huggingface_hub (1.x, 2.x) notes them on download."""
    try:
        noted = json.loads((folder / "trees" / f"{commit}.json").read_bytes())
        return list(noted["files"]) if noted["format_version"] == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"(unreadable)"}


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
    return hashlib.sha256(text.encode()).hexdigest()
