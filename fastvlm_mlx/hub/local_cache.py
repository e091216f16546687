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
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
# One of these is in the config.json of whatever has a language model.
_TEXT_KEYS = ("vocab_size", "text_config", "text")
_BPE_FILES = {"vocab.json", "merges.txt"}
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
    folder = snapshot_folder(repo, revision)
    return folder if folder and not incomplete_files(folder) else None


def snapshot_folder(repo: str, revision: str = "main") -> Path | None:
    """The cached snapshot of a hub repository, whole or not."""
    commit = commit_of(repo, revision)
    if commit is None:
        return None
    folder = _repository(repo) / "snapshots" / commit
    try:
        return folder if folder.is_dir() else None
    except OSError:  # a folder on the way may not be entered
        return None


def commit_of(repo: str, revision: str) -> str | None:
    """The commit that a revision meant when it was last asked for."""
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = ref_file(repo, revision).read_bytes().decode("ascii").strip()
        except (OSError, ValueError):
            return None
    return commit if _COMMIT.fullmatch(commit) else None


def ref_file(repo: str, revision: str) -> Path:
    """Where huggingface_hub notes the commit of a branch or tag."""
    return _repository(repo) / "refs" / revision


def incomplete_files(folder: Path) -> list[str]:
    """The files that a snapshot lacks, or holds cut short, by name.

    Those are known from the repository's list of files, which huggingface_hub notes
    where it fetched all; else they are what a model cannot do without.
    """
    try:
        listed = _listing(folder)
        return _lacking(folder) if listed is None else _lacking_of(folder, listed)
    except OSError as fault:
        return [f"{fault.filename} ({fault.strerror})"]


def repository_of(snapshot: Path) -> tuple[str, str] | None:
    """The repository and commit of a snapshot's folder; None for other folders."""
    found = _SNAPSHOT.search(snapshot.as_posix())
    return (found["repo"].replace("--", "/", 1), found["commit"]) if found else None


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


def _repository(repo: str) -> Path:
    return hub_cache_dir() / f"models--{repo.replace('/', '--')}"


def _lacking_of(folder: Path, listed: dict[str, int]) -> list[str]:
    # A snapshot's files are links, made one by one as their downloads end.
    wanted = files_read(listed)
    files = {name: folder / name for name in wanted}
    lacking = [
        name
        for name, file in files.items()
        if not file.is_file() or file.stat().st_size < listed[name]
    ]
    return lacking if wanted else ["*.safetensors"]


def _lacking(folder: Path) -> list[str]:
    lacking = []
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        config = None
        lacking.append("config.json")
    present = {path.name for path in folder.glob("[!.]*") if path.is_file()}
    for kind, index in (
        ("*.safetensors", "model.safetensors.index.json"),
        ("*.bin", "pytorch_model.bin.index.json"),
        ("*.pt*", ""),
    ):
        if any(fnmatchcase(name, kind) for name in present):
            if index in present:
                lacking += sorted(_shards(folder / index) - present)
            break
    else:
        lacking.append("*.safetensors")
    # An encoder alone has no tokenizer.
    speaks = isinstance(config, dict) and any(key in config for key in _TEXT_KEYS)
    has_tokenizer = "tokenizer.json" in present or present >= _BPE_FILES
    return lacking if has_tokenizer or not speaks else [*lacking, "tokenizer.json"]


def _listing(folder: Path) -> dict[str, int] | None:
    """The repository's files with their sizes in bytes, as huggingface_hub (1.x, 2.x)
    notes them on download."""
    try:
        file = folder.parent.parent / "trees" / f"{folder.name}.json"
        noted = json.loads(file.read_bytes())
        if noted["format_version"] != 1:
            return None
        return {name: int(entry["size"]) for name, entry in noted["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _shards(index: Path) -> set[str]:
    try:
        return {
            str(name) for name in json.loads(index.read_bytes())["weight_map"].values()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {index.name}


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
