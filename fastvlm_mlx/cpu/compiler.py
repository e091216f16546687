"""Compiles C++ files with g++ into one shared library."""

import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file

_compiling = threading.Lock()


def compiled(path: Path, sources: Sequence[Path], flags: Sequence[str]) -> bool:
    """Compiles `sources` to the library `path` if it is not there yet, and says whether
    it is now. Threads wait for the one that compiles.

    Args:
        sources: `.cpp` files, and headers, which are passed over.
        flags: for the compiler, those of a shared library among them.
    """
    with _compiling:
        return path.is_file() or _compile(path, sources, flags)


def _compile(path: Path, sources: Sequence[Path], flags: Sequence[str]) -> bool:
    compiler = shutil.which("g++")
    if compiler is None:
        return False
    try:
        with (
            staged_file(path, overwrite=True) as partial,
            TemporaryDirectory(prefix="fastvlm-kernels-") as folder,
        ):
            objects = {
                str(source): f"{folder}/{source.stem}.o"
                for source in sources
                if source.suffix == ".cpp"
            }
            # At the same time, each on a core of its own.
            running = [
                _start(compiler, *flags, "-c", source, "-o", out)
                for source, out in objects.items()
            ]
            failed = [process.wait() for process in running]
            link = [compiler, *flags, *objects.values(), "-o", str(partial)]
            if any(failed) or _start(*link).wait():
                raise OptionError(f"{path}: g++ refuses the kernels")
    except (OSError, OptionError):
        return False
    return True


def _start(*command: str) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)


def processor() -> bytes:
    """The processor's features: machines of different ones may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return b""
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)})).encode()
