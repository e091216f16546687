"""Resolves a model's name to a folder or file on this machine.

A name is a path, `demo`, a short name of Apple's models, or a repository of the
Hugging Face hub, `owner/name` or `owner/name@revision`. A cached model is
used without asking the network; `refresh` looks for a newer revision.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError, DownloadError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.hub.download import download, hub_answers, to_stderr
from fastvlm_mlx.hub.environment import endpoint, offline_variable
from fastvlm_mlx.hub.local_cache import cached

ALIASES = {
    "0.5b": "apple/FastVLM-0.5B",
    "1.5b": "apple/FastVLM-1.5B",
    "7b": "apple/FastVLM-7B",
}
_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)"
    r"(?:/tree/([^?#]+?))?/?(?:[?#].*)?"
)
_FILES = (".zip", ".safetensors", ".bin", ".pt", ".pth")
_ACCEPTED = "a folder, a file, a .zip, demo, 0.5b, 1.5b, 7b or owner/name of the hub"


def locate(
    name: str | Path,
    *,
    refresh: bool = False,
    notify: Callable[[str], None] | None = None,
) -> Path:
    """Returns the folder, file or archive of `name`; downloads it if needed.

    An existing path wins over a repository of the same name. `notify` receives lines
    for the user (default: they go to stderr); the library's own progress bars appear
    only on a terminal. If a download was deleted, its
    conversion in our cache is returned.

    Raises:
        CheckpointError: `name` is neither a path nor a model's name.
        DownloadError: the hub does not answer or refuses.
    """
    text = str(name)
    if path := _existing(text):
        return path
    if text.lower() == "demo":
        return _demo()
    repo, revision = _parse(text)
    if not refresh and (found := cached(repo, revision)):
        return found
    return download(repo, revision, refresh, notify or to_stderr)


def is_path(name: str | Path) -> bool:
    """Whether `locate(name)` takes the name for a path on this machine."""
    return _existing(str(name)) is not None


def is_cached(name: str | Path) -> bool:
    """Whether `locate(name)` needs no network. Looks at files only."""
    text = str(name)
    if _existing(text) or text.lower() == "demo":
        return True
    try:
        return cached(*_parse(text)) is not None
    except CheckpointError:
        return False


def choose_default() -> tuple[str, str]:
    """The model to use when none is named, and why, in one line."""
    if chosen := os.environ.get("FASTVLM_MODEL"):
        return chosen, "named by FASTVLM_MODEL"
    if is_cached("0.5b"):
        return "0.5b", "in the cache"
    if hub_answers(ALIASES["0.5b"]):
        return "0.5b", "the hub answers"
    return "demo", f"{_why_no_hub()} and 0.5b is not in the cache"


def _why_no_hub() -> str:
    if variable := offline_variable():
        return f"{variable} is set"
    try:
        endpoint()
    except DownloadError as fault:
        return str(fault).replace(";", ",")
    return "the hub does not answer"


def _demo() -> Path:
    import importlib.resources

    folder = Path(str(importlib.resources.files("fastvlm_mlx"))) / "demo"
    if not (folder / "config.json").is_file():
        raise CheckpointError("demo: missing from this installation; reinstall it")
    return folder


def _existing(text: str) -> Path | None:
    try:
        path = expand_user(text)
        # A folder that merely happens to be called `demo` does not hide the model.
        if text.lower() in {"demo", *ALIASES}:
            return path if (path / "config.json").is_file() else None
        return path if text and path.exists() else None
    except (OSError, RuntimeError):  # too long for a path, or an unknown ~user
        return None


def _parse(text: str) -> tuple[str, str]:
    """The repository and revision that a name means."""
    if page := _PAGE.fullmatch(text):
        text = page[1] + (f"@{page[2]}" if page[2] else "")
    repo, _, revision = text.partition("@")
    repo = ALIASES.get(repo.lower(), repo)
    sane = _ID.fullmatch(repo) and not re.search(r"--|\.\.|\.git$|[-.](/|$)", repo)
    if sane and not re.search(r"\.\.|^/|[\s?#%\\]", revision):
        # A missing file is no repository, though `models/x.zip` could be one.
        if not text.endswith(_FILES):
            return repo, revision or "main"
    if "://" in text:
        raise CheckpointError(f"{text}: not a model; download it, then pass the file")
    if text.startswith(("/", ".", "~")) or text.endswith(_FILES):
        raise CheckpointError(f"{text}: no such file or folder; check the path")
    import difflib

    known = {key: key for key in (*ALIASES, "demo")}
    known |= {repo.lower(): repo for repo in ALIASES.values()}
    known |= {repo.split("/")[1].lower(): repo for repo in ALIASES.values()}
    close = difflib.get_close_matches(text.lower(), known, n=1)
    hint = f"did you mean {known[close[0]]}? Else pass" if close else "pass"
    raise CheckpointError(f"{text or '(empty)'}: no such model; {hint} {_ACCEPTED}")
