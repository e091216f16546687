"""Turns the errors of huggingface_hub into a DownloadError of one line."""

import errno
from collections.abc import Iterator

from fastvlm_mlx.errors import DownloadError, quoted
from fastvlm_mlx.hub.environment import cache_variable, proxies

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP)
_UNWRITABLE += (errno.ENAMETOOLONG,)


def explain(error: BaseException, label: str, endpoint: str) -> DownloadError:
    """The DownloadError for what the hub raised while fetching `label`."""
    repo, _, revision = label.partition("@")
    chain = list(_chain(error))
    kinds = {base.__name__ for e in chain for base in type(e).__mro__}
    status = next((s for e in chain if (s := _status(e)) is not None), None)
    code = next((e.errno for e in chain if isinstance(e, OSError) and e.errno), None)

    if code in (errno.ENOSPC, errno.EDQUOT):
        why = f"disk full; free some space or set {cache_variable()} to another disk"
    elif code in _UNWRITABLE:
        why = (
            f"its cache cannot be written; set {cache_variable()} to a folder of yours"
        )
    elif "GatedRepoError" in kinds or status == 403:
        why = f"is gated; request access at {endpoint}/{repo}, then run `hf auth login`"
    elif "RevisionNotFoundError" in kinds:
        why = f"has no revision {revision or 'main'}; leave out @ for the newest"
    elif status == 401 and "Invalid credentials" in _told(chain):
        why = f"{endpoint} refuses your token; run `hf auth login` or unset HF_TOKEN"
    elif "RepositoryNotFoundError" in kinds or status in (401, 404):
        # The hub says 401 for what does not exist as for what is private.
        why = (
            f"neither a path nor a public repository of {endpoint}; check the "
            "spelling, or run `hf auth login` if it is private"
        )
    elif status == 429:
        why = f"{endpoint} asks to slow down; try again in some minutes"
    elif status is not None and status >= 400:
        why = f"{endpoint} fails with {status}; try again later"
    elif "FileMetadataError" in kinds or "JSONDecodeError" in kinds:
        why = f"{endpoint} is no hub; check HF_ENDPOINT, proxy and network login"
    elif "HFValidationError" in kinds:
        why = "not a repository name; it is owner/name"
    elif "Consistency check" in str(error) or "RemoteProtocolError" in kinds:
        why = "broke off midway; run it again, finished files are kept"
    elif kinds & {"NetworkError", "TimeoutException", "ConnectionError", "Timeout"}:
        through = "".join(f" and {name}" for name in proxies())
        why = (
            f"no answer from {endpoint} ({type(chain[-1]).__name__}); "
            f"check the network{through}, or pass --model demo"
        )
    elif "ImportError" in kinds and "SOCKS" in str(error):
        named = " and ".join(proxies())
        why = f"a SOCKS proxy needs socksio; pip install socksio, or unset {named}"
    elif "UnicodeEncodeError" in kinds or "LocalProtocolError" in kinds:
        why = "your token has a letter no token has; run `hf auth login`"
    else:
        first = (str(error) or type(error).__name__).strip().splitlines()[0]
        why = f"download failed ({quoted(first)}); run it again"
    return DownloadError(f"{label}: {why}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (
            None if error.__suppress_context__ else error.__context__
        )


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _told(chain: list[BaseException]) -> str:
    answers = [getattr(error, "response", None) for error in chain]
    headers = [answer.headers for answer in answers if answer is not None]
    return next((h["X-Error-Message"] for h in headers if "X-Error-Message" in h), "")
