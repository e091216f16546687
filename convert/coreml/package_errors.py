"""The one boundary at which damage of an `.mlpackage` becomes one line.

A package is untrusted: any field of its protobuf message may be missing, out of range
or of another kind, in more ways than a reader can ask about one by one.
"""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fastvlm_mlx.errors import CheckpointError, FastVLMError


@contextlib.contextmanager
def package_errors(path: Path) -> Iterator[None]:
    """Turns what a damaged package at `path` raises into a CheckpointError.

    The project's own errors pass, with the package's name before them.
    """
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise CheckpointError(f"{path}: {error}") from error
    except FastVLMError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a Core ML package this program can read ({_what(error)});"
            " export it again"
        ) from error


def _what(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"no {text}"
    text = "".join(char if char.isprintable() else "?" for char in text)
    text = text or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]}..."


def package_file(folder: Path, name: str, largest: int) -> Path:
    """The file `name` of the package in `folder`, `largest` bytes at most.

    Links may lead out of the package, as in the Hub's cache; names may not.

    Raises:
        ValueError: no such regular file.
        OSError: it cannot be looked at.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r:.200} is not the name of a file in it")
    path = folder / name
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name!r:.200} is not a regular file")
    if found.st_size > largest:
        raise ValueError(f"{name!r:.200} has {found.st_size} bytes, {largest} at most")
    return path
