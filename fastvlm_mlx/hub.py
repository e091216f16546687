"""From a model's name to a folder on this machine.

A name is a path, `demo`, a short name of Apple's models, or a repository of the
Hugging Face hub, `owner/name` or `owner/name@revision`. What is cached is used as it
is, without asking the network; `refresh` looks for a newer revision.
"""

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fastvlm_mlx import cache
from fastvlm_mlx.errors import CheckpointError, DownloadError
from fastvlm_mlx.files.cache_dir import cache_dir, hub_cache_dir

ALIASES = {
    "0.5b": "apple/FastVLM-0.5B",
    "1.5b": "apple/FastVLM-1.5B",
    "7b": "apple/FastVLM-7B",
}
LICENCE_NOTE = (
    "Apple's FastVLM weights are for research purposes only: "
    "https://huggingface.co/apple/FastVLM-0.5B/blob/main/LICENSE"
)
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
    """Give the folder, file or archive that `name` means, downloading it if needed.

    An existing path wins over a repository of the same name. `notify` receives lines
    for the user (default: they go to stderr); the library's own progress bars appear
    only on a terminal. A conversion of ours stands in for a deleted download.

    Raises CheckpointError for a name that means nothing, DownloadError if the hub
    does not answer or refuses.
    """
    text = str(name)
    if path := _existing(text):
        return path
    if text.lower() == "demo":
        return _demo()
    repo, revision = _parse(text)
    if not refresh and (found := _cached(repo, revision)):
        return found
    return _download(repo, revision, refresh, notify or _to_stderr)


def is_cached(name: str | Path) -> bool:
    """Whether `locate(name)` needs no network. Looks at files only."""
    text = str(name)
    if _existing(text) or text.lower() == "demo":
        return True
    try:
        return _cached(*_parse(text)) is not None
    except CheckpointError:
        return False


def hub_answers(timeout: float = 1.5) -> bool:
    """Whether the hub would serve Apple's 0.5B model now; takes `timeout` seconds."""
    if _is_offline():
        return False
    import threading
    import urllib.request

    answers = []

    def ask() -> None:
        url = f"{_endpoint()}/api/models/{ALIASES['0.5b']}"
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answers.append(response.status == 200)

    # Looking up a host name heeds no timeout, so a thread is left behind if need be.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers and answers[0])


def choose_default() -> tuple[str, str]:
    """The model to use when none is named, and why, in one line."""
    if chosen := os.environ.get("FASTVLM_MODEL"):
        return chosen, "named by FASTVLM_MODEL"
    if is_cached("0.5b"):
        return "0.5b", "in the cache"
    if hub_answers():
        return "0.5b", "the hub answers"
    why = "HF_HUB_OFFLINE is set" if _is_offline() else "the hub does not answer"
    return "demo", f"{why} and 0.5b is not in the cache"


def _demo() -> Path:
    import importlib.resources

    folder = Path(str(importlib.resources.files("fastvlm_mlx"))) / "demo"
    if not (folder / "config.json").is_file():
        raise CheckpointError("demo: missing from this installation; reinstall it")
    return folder


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
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


def _cached(repo: str, revision: str) -> Path | None:
    return cache.snapshot(repo, revision) or cache.converted_of(repo, revision)


def _download(
    repo: str, revision: str, refresh: bool, notify: Callable[[str], None]
) -> Path:
    label = repo if revision == "main" else f"{repo}@{revision}"
    found = _cached(repo, revision)
    if _is_offline():
        if found:
            return found
        raise DownloadError(
            f"{label}: not in the cache, and HF_HUB_OFFLINE is set; "
            "unset it, or pass --model demo"
        )
    try:
        with _quiet_library():
            return _fetch(repo, revision, label, notify)
    except DownloadError:
        raise
    except Exception as error:
        # The library's HTTP stack changed twice (requests, httpx, httpx2); its errors
        # have no base of their own.
        from fastvlm_mlx.hub_errors import explain

        failure = explain(error, label, _endpoint())
        if refresh and found:
            notify(f"{failure}; using the cached copy")
            return found
        raise failure from error


def _fetch(repo: str, revision: str, label: str, notify: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    store, endpoint = hub_cache_dir(), _endpoint()
    info = HfApi(endpoint=endpoint).model_info(
        repo, revision=revision, files_metadata=True, timeout=10
    )
    sizes = {f.rfilename: f.size or 0 for f in info.siblings or []}
    names = cache.files_read(sizes)
    if not names:
        raise DownloadError(f"{label}: holds no weights; name another repository")
    folder = store / f"models--{repo.replace('/', '--')}" / "snapshots" / str(info.sha)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        _note_licence(repo, notify)
    _check_space(label, store, sum(sizes[name] for name in missing))
    # One by one on this thread: on Ctrl-C, snapshot_download's workers first finish
    # their files, however large. config.json comes last, so a broken-off snapshot is
    # never taken for a model.
    for name in sorted(missing, key=lambda n: (n == "config.json", sizes[n], n)):
        hf_hub_download(
            repo, name, revision=info.sha, cache_dir=store, endpoint=endpoint
        )
    # Everything is there: this writes down the revision and the list of files.
    found = snapshot_download(
        repo,
        revision=revision,
        cache_dir=store,
        endpoint=endpoint,
        allow_patterns=names,
    )
    return Path(found)


def _check_space(label: str, store: Path, needed: int) -> None:
    while not store.exists():
        store = store.parent
    free = shutil.disk_usage(store).free
    if needed > free:
        raise DownloadError(
            f"{label}: needs {needed / 1e9:.1f} GB, {store} has {free / 1e9:.1f} GB "
            "free; free some space or set HF_HOME to another disk"
        )


def _note_licence(repo: str, notify: Callable[[str], None]) -> None:
    """Say once per machine what Apple's licence allows."""
    if "fastvlm" not in repo.lower() and not repo.lower().startswith("apple/"):
        return
    marker = cache_dir() / "licence-noted"
    if marker.exists():
        return
    notify(LICENCE_NOTE)
    with contextlib.suppress(OSError):  # said again next time
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Progress bars on a terminal only; no warnings, our errors say what matters."""
    import warnings

    # Its modules set the level as they are loaded, so they come first.
    from huggingface_hub import utils

    level = utils.logging.get_verbosity()
    hide = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils.logging.set_verbosity_error()
        if hide:
            utils.disable_progress_bars()
        try:
            yield
        finally:
            utils.logging.set_verbosity(level)
            if hide:
                utils.enable_progress_bars()


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _is_offline() -> bool:
    flag = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    return (flag or "").upper() in {"1", "ON", "YES", "TRUE"}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
