"""The CPU kernels and their assembly are compiled once, not by each test run."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastvlm_mlx.cpu import kernels


@contextmanager
def kept_kernels(config: pytest.Config) -> Iterator[None]:
    """Inside, whoever compiles the kernels takes what pytest's cache has of them.

    Their file is named after the sources, the flags and the processor. It appears in
    the product's cache when it did before, so tests choose the same forms.
    """
    cache = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
    if cache is None:
        yield
        return
    folder: Path = cache.mkdir("kernels")
    compiled = kernels.compiled

    def taken(path: Path, sources: Sequence[Path], flags: Sequence[str]) -> bool:
        kept = folder / path.name
        with open(folder / "lock", "w") as lock:  # others wait for the one who compiles
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file():
                return True
            # Without a compiler there are none, whatever is kept.
            if shutil.which("g++") is None or not compiled(kept, sources, flags):
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, path)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", taken)
        yield


def kept_assembly(
    config: pytest.Config, command: Sequence[str], source: Path, folder: Path
) -> str:
    """What g++ makes of one of the kernels' sources, from pytest's cache if it has it.

    It is kept under the name of all that it depends on: the sources, the command and
    the compiler's version.

    Args:
        command: of g++ up to the source, with -S.
        folder: an empty one, in which it is made.
    """
    version = subprocess.run([command[0], "--version"], capture_output=True, check=True)
    sources = b"".join(file.read_bytes() for file in kernels.SOURCES)
    made_of = repr([version.stdout, *command, source.name]).encode()
    name = f"{source.stem}-{hashlib.sha256(sources + made_of).hexdigest()[:16]}.s"
    out = folder / name
    cache = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
    kept = out if cache is None else cache.mkdir("kernels") / name
    if not kept.is_file():
        whole = [*command, str(source), "-o", str(out)]
        subprocess.run(whole, check=True, capture_output=True)
        if cache is not None:  # as a whole, or not at all
            shutil.copyfile(out, part := kept.with_suffix(f".{os.getpid()}"))
            part.replace(kept)
    return kept.read_text()
