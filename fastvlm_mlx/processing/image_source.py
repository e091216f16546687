"""Reads the bytes of an image from a path, a pipe, standard input or a URL.

Nothing is decoded here. Each reader takes the name to use in messages and raises
ImageError, one line with that name, the fault and the way out.
"""

import sys
from pathlib import Path

from PIL import Image

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.files.read_input import read_input
from fastvlm_mlx.files.user_path import expand_user

MAX_BYTES = 256 << 20  # from a URL, a pipe or standard input
URL_TIMEOUT = 20.0  # seconds of silence
URL_DEADLINE = 120.0  # seconds in all, against a server that sends byte by byte


def name_of(source: object) -> str:
    """What to call the source in a message: one line, printable, not too long."""
    if isinstance(source, Image.Image):
        text = str(getattr(source, "filename", "") or "image")
    elif isinstance(source, bytes):
        text = f"image of {len(source)} bytes"
    elif isinstance(source, str | Path):
        text = "standard input" if str(source) == "-" else str(source) or "''"
    else:
        text = type(source).__name__
    return _printable(text)


def one_line(error: object) -> str:
    """What went wrong, in the words of who noticed: one line, no full stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return _printable(text or type(error).__name__)


def _printable(text: str) -> str:
    # Paths and servers may say anything, escape codes for the terminal included.
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-40:]}"


def read_path(source: str | Path, name: str) -> Path | bytes:
    """The path itself for Pillow to read at leisure, or the bytes of a pipe."""
    try:
        path = expand_user(source)
        if path.is_file():
            path.open("rb").close()
            return path
        if path.is_dir():
            raise ImageError(f"{name}: is a folder; give an image in it")
        return _within_limit(read_input(path, MAX_BYTES), name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError, RuntimeError) as error:
        fault = one_line(getattr(error, "strerror", None) or error)
        raise ImageError(f"{name}: {fault}; check the path") from error


def read_stdin(name: str) -> bytes:
    stream = getattr(sys.stdin, "buffer", None)
    try:
        if stream is None or stream.isatty():
            raise ImageError(f"{name}: nothing is piped in; try `cat IMAGE | ...`")
        return _within_limit(stream.read(MAX_BYTES + 1), name)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: {one_line(error)}; pipe an image") from error


def _within_limit(data: bytes, name: str) -> bytes:
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"{name}: more than {MAX_BYTES >> 20} MB; save a smaller image"
        )
    return data


def read_url(url: str, name: str) -> bytes:
    # Imported here: 50 ms that only URLs need.
    from fastvlm_mlx.processing import http_client, http_errors

    url = url.strip()
    if not url.lower().startswith(("http://", "https://")):
        scheme = url.split("://")[0]
        raise ImageError(
            f"{name}: cannot open {scheme}: addresses; give a path, http or https"
        )
    policy = http_client.FetchPolicy(
        max_bytes=MAX_BYTES, seconds=URL_DEADLINE, read_timeout=URL_TIMEOUT
    )
    try:
        return http_client.fetch(url, policy)
    except http_errors.BadStatus as error:
        reason = one_line(error.reason)
        raise ImageError(
            f"{name}: the server answered {error.status} {reason}; check the address"
        ) from None
    except http_errors.TooLarge as error:
        size = f"more than {MAX_BYTES >> 20} MB"
        if error.announced is not None:
            size = f"{error.announced >> 20} MB, more than {MAX_BYTES >> 20}"
        raise ImageError(f"{name}: {size}; save a smaller image") from None
    except http_errors.BadURL as error:
        fault = f"not an address that can be opened ({one_line(error)})"
        if error.redirect is not None:
            fault = f"the server answered {error.redirect.status} and {fault}"
        raise ImageError(f"{name}: {fault}; check the address") from None
    except http_errors.BadEncoding as error:
        fault = f"the server sent it packed as {one_line(error.name)}"
        fault += ", and damaged" if error.damaged else ", which is not unpacked here"
        raise ImageError(f"{name}: {fault}; download it first") from None
    except http_errors.TooSlow:
        raise ImageError(
            f"{name}: not complete after {URL_DEADLINE:g} s; download it first"
        ) from None
    except http_errors.Incomplete as error:
        raise ImageError(
            f"{name}: the connection closed after {error.received} of"
            f" {error.announced} bytes; try again"
        ) from None
    except http_errors.FetchError as error:
        fault = one_line(error.__cause__ or error)
        raise ImageError(
            f"{name}: no answer ({fault}); check the address and the network"
        ) from error
