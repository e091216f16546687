"""Downloads a model repository from the Hugging Face hub into the hub's own cache."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.files.cache_dir import cache_dir, hub_cache_dir
from fastvlm_mlx.files.disk_space import format_size, free_space
from fastvlm_mlx.files.temporary_names import remove
from fastvlm_mlx.hub.environment import (
    cache_variable,
    check_environment,
    endpoint,
    is_offline,
    offline_variable,
)
from fastvlm_mlx.hub.local_cache import cached
from fastvlm_mlx.hub.snapshot import (
    commit_of,
    files_read,
    incomplete_files,
    is_stored,
    ref_file,
    snapshot_folder,
)

LICENCE_NOTE = (
    "Apple's FastVLM weights are for research purposes only: "
    "https://huggingface.co/apple/FastVLM-0.5B/blob/main/LICENSE"
)


def hub_answers(repo: str, timeout: float = 1.5) -> bool:
    """Whether the hub would serve `repo` now; takes `timeout` seconds at most."""
    if is_offline():
        return False
    try:
        url = f"{endpoint()}/api/models/{repo}"
    except DownloadError:
        return False
    import threading
    import urllib.request

    answers = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        with contextlib.suppress(OSError, ValueError):
            with urllib.request.urlopen(request, timeout=timeout) as response:
                answers.append(response.status == 200)

    # Looking up a host name heeds no timeout, so a thread is left behind if need be.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return bool(answers and answers[0])


def download(
    repo: str,
    revision: str,
    refresh: bool,
    notify: Callable[[str], None],
) -> Path:
    """Fetches what the cache lacks of `repo`; returns the snapshot.

    Raises:
        DownloadError: the hub does not answer or refuses.
    """
    label = repo if revision == "main" else f"{repo}@{revision}"
    found = cached(repo, revision)
    if variable := offline_variable():
        if found:
            return found
        raise _incomplete(repo, revision, label) or DownloadError(
            f"{label}: not in the cache, and {variable} is set; "
            "unset it, or pass --model demo"
        )
    try:
        check_environment()
        with _quiet_library():
            return _fetch(repo, revision, label, notify)
    except Exception as error:
        # The library's HTTP stack changed twice (requests, httpx, httpx2); its errors
        # have no base of their own.
        from fastvlm_mlx.hub.download_errors import explain

        failure = error
        if not isinstance(error, DownloadError):
            failure = explain(error, label, endpoint())
            failure = _incomplete(repo, revision, label, str(failure)) or failure
        if refresh and found:
            notify(f"{failure}; using the cached copy")
            return found
        raise failure from error


def _incomplete(
    repo: str, revision: str, label: str, why: str = ""
) -> DownloadError | None:
    """The error for a repository of which the cache holds a part, else None.

    `why` is the message of the download that failed; none is tried offline.
    """
    folder = snapshot_folder(repo, revision)
    lacking = incomplete_files(folder) if folder else []
    if not lacking:
        return None
    cut = [folder / name for name in lacking if folder and (folder / name).exists()]
    named = ", ".join(lacking[:4]) + (", ..." if len(lacking) > 4 else "")
    fault = f"{cut[0]} is damaged or cut short" if cut else f"the cache lacks {named}"
    if why:
        return DownloadError(f"{label}: {fault}: {why.removeprefix(f'{label}: ')}")
    command = f"run `hf download {repo}`"
    if revision != "main":
        command = f"{command[:-1]} --revision {revision}`"
    if cut:
        # The library keeps a file that is there, whatever its size.
        command = f"delete {cut[0].resolve()} and {command}"
    return DownloadError(
        f"{label}: {fault}, and {offline_variable()} is set; unset it, or {command}"
        " online"
    )


def _fetch(
    repo: str,
    revision: str,
    label: str,
    notify: Callable[[str], None],
) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    store, hub = hub_cache_dir(), endpoint()
    info = HfApi(endpoint=hub).model_info(
        repo, revision=revision, files_metadata=True, timeout=10
    )
    sizes = {f.rfilename: f.size or 0 for f in info.siblings or []}
    names = files_read(sizes)
    if not names:
        raise DownloadError(f"{label}: holds no weights; name another repository")
    folder = store / f"models--{repo.replace('/', '--')}" / "snapshots" / str(info.sha)
    missing = [name for name in names if not is_stored(folder / name, sizes[name])]
    if missing:
        _note_licence(repo, notify)
    _check_space(label, store, sum(sizes[name] for name in missing))
    # One by one on this thread: on Ctrl-C, snapshot_download's workers first finish
    # their files, however large. config.json comes last, so a broken-off snapshot is
    # never taken for a model.
    for name in sorted(missing, key=lambda n: (n == "config.json", sizes[n], n)):
        # The library keeps a file that is there, whatever its size.
        again = (folder / name).exists()
        for force in (False, True)[again:]:
            hf_hub_download(
                repo,
                name,
                revision=info.sha,
                cache_dir=store,
                endpoint=hub,
                force_download=force,
            )
            if is_stored(folder / name, sizes[name]):
                break
    # The library reads the old name of the revision before it writes the new one.
    ref = ref_file(repo, revision)
    if ref.exists() and commit_of(repo, revision) is None:
        remove(ref)
    # Everything is there: this writes down the revision and the list of files.
    found = snapshot_download(
        repo,
        revision=revision,
        cache_dir=store,
        endpoint=hub,
        allow_patterns=names,
    )
    return Path(found)


def _check_space(label: str, store: Path, needed: int) -> None:
    free = free_space(store)
    if needed > free:
        raise DownloadError(
            f"{label}: needs {format_size(needed)}, {store} has {format_size(free)} "
            f"free; free some space or set {cache_variable()} to another disk"
        )


def _note_licence(repo: str, notify: Callable[[str], None]) -> None:
    """Prints the note on Apple's licence, once per machine."""
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


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
