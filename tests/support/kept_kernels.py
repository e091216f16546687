"""The CPU kernels are compiled once, not by each process of each run of the tests."""

import fcntl
import shutil
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
