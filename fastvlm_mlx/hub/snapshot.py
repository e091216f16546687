"""Snapshots in the hub's cache: which are whole, and what the others lack.

huggingface_hub (a third of a second to import) is not used, so a cached model loads
without it and without the network.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.cache_dir import hub_cache_dir
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.safetensors_header import check_file

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
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


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


def _repository(repo: str) -> Path:
    return hub_cache_dir() / f"models--{repo.replace('/', '--')}"


def _lacking_of(folder: Path, listed: dict[str, int]) -> list[str]:
    wanted = files_read(listed)
    lacking = [n for n in wanted if not is_stored(folder / n, listed[n])]
    return lacking if wanted else ["*.safetensors"]


def _lacking(folder: Path) -> list[str]:
    # A snapshot's files are links, made one by one as their downloads end.
    links = {path.name: path for path in folder.glob("[!.]*") if not path.is_dir()}
    present = {name for name, path in links.items() if path.is_file()}
    # All that was fetched must be whole; a blob may also have been deleted.
    needed = {"config.json", *(n for n in files_read(links) if n.endswith(".json"))}
    for kind, index in (("*.safetensors", 0), ("*.bin", 1), ("*.pt*", None)):
        if weights := {name for name in links if fnmatchcase(name, kind)}:
            needed |= weights
            if index is not None and _INDEXES[index] in present:
                needed |= {_INDEXES[index], *_shards(folder / _INDEXES[index])}
            break
    else:
        needed.add("*.safetensors")
    if _speaks(folder / "config.json") and not present >= _BPE_FILES:
        needed.add("tokenizer.json")
    return sorted(name for name in needed if not is_stored(folder / name))


def is_stored(file: Path, size: int | None = None) -> bool:
    """Whether a file of a snapshot is there and not cut short.

    Args:
        size: the bytes it has on the hub, if that is known.
    """
    if not file.is_file() or file.stat().st_size < (size or 0):
        return False
    try:
        if file.suffix == ".safetensors":
            check_file(file)
        elif file.name in ("config.json", *_INDEXES):
            read_json(file)
        elif file.suffix == ".json":
            _check_ends(file)
    except CheckpointError:
        return _is_as_published(file)
    return True


def _check_ends(file: Path) -> None:
    """Refuses what is no JSON object by its ends: parsing a tokenizer takes 0.2 s."""
    with file.open("rb") as opened:
        start = opened.read(64)
        opened.seek(max(0, file.stat().st_size - 64))
        end = opened.read()
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{" or end.rstrip()[-1:] != b"}":
        raise CheckpointError(f"{file}: not one JSON object; download it again")


def _is_as_published(file: Path) -> bool:
    """Whether a file that cannot be read is what the hub has: no use in fetching it
    again. The hub names files by their SHA-256, or as git does."""
    blob = file.resolve()
    lengths = {64: [hashlib.sha256()], 40: [hashlib.sha1(), hashlib.sha1()]}
    hashes = lengths.get(len(blob.name), [])
    if len(hashes) == 2:
        hashes[1].update(f"blob {blob.stat().st_size}\0".encode())
    with blob.open("rb") as opened:
        while piece := opened.read(1 << 20):
            for each in hashes:
                each.update(piece)
    return any(each.hexdigest() == blob.name for each in hashes)


def _speaks(config: Path) -> bool:
    """Whether there is a language model, and with it a tokenizer."""
    try:
        return any(key in read_json(config) for key in _TEXT_KEYS)
    except CheckpointError:
        return False


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
