"""Makes MLX's CPU backend on Linux use OpenBLAS.

MLX's Linux wheel is linked to the reference BLAS, whose matrix product is some
twenty times slower than OpenBLAS. No self-contained package offers OpenBLAS under
the plain names that `libmlx.so` calls (scipy-openblas32 says `scipy_cblas_sgemm`),
so preloading one cannot help. `bind` therefore points the library's own call slot
(ELF's procedure linkage table) at OpenBLAS. Only `libmlx.so` is touched, in memory,
and the order of imports does not matter. On macOS MLX has Accelerate: nothing is done.
"""

import ctypes
import importlib.util
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

_GEMM = "cblas_sgemm"
_PREFIXES = ("", "scipy_")
# ELF, 64 bit: section types and the sizes of a section header, symbol, relocation.
_DYNSYM, _RELA = 11, 4
_SECTION, _SYMBOL, _RELOCATION = "<IIQQQQIIQQ", "<IBBHQQ", "<QQq"


class _Mapping(NamedTuple):
    start: int
    end: int
    access: str
    offset: int
    path: str


class _DlInfo(ctypes.Structure):
    _fields_ = [
        ("fname", ctypes.c_char_p),
        ("fbase", ctypes.c_void_p),
        ("sname", ctypes.c_char_p),
        ("saddr", ctypes.c_void_p),
    ]


def bind() -> None:
    """Lets MLX multiply float32 matrices on the CPU with OpenBLAS, if there is one.

    Looks for the package scipy-openblas32, then for the system's `libopenblas.so.0`.
    Harmless where there is none, on other systems, and when called again.
    """
    slot = _slot()
    if slot is None or _version(_library(slot.value)):
        return
    for path, prefix in _candidates():
        try:
            slot.value = _address(ctypes.CDLL(path), prefix + _GEMM)
            return
        except (OSError, AttributeError):
            continue


def sgemm_addresses() -> tuple[int, int] | None:
    """Addresses of OpenBLAS' `cblas_sgemm` and `openblas_set_num_threads`, as bound.

    None unless MLX uses OpenBLAS.
    """
    slot = _slot()
    path = _library(slot.value) if slot else ""
    if path:
        library = ctypes.CDLL(path)
        for prefix in _PREFIXES:
            if hasattr(library, f"{prefix}openblas_set_num_threads"):
                gemm = _address(library, prefix + _GEMM)
                return gemm, _address(library, f"{prefix}openblas_set_num_threads")
    return None


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_threads() -> int:
    """The threads that OpenBLAS has by its own rules: the variable's number, or all."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        wanted = os.environ.get(name, "")
        if wanted.isdecimal() and int(wanted):
            return min(int(wanted), cores())
    return cores()


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block OpenBLAS computes with one thread, for products so small that
    threads mostly wait for each other: they spin, which on a busy machine takes ten
    times as long."""
    addresses = sgemm_addresses()
    if addresses is None:
        yield
        return
    set_threads = ctypes.CFUNCTYPE(None, ctypes.c_int)(addresses[1])
    set_threads(1)
    try:
        yield
    finally:
        set_threads(default_threads())


def library_name() -> str:
    """The BLAS that MLX's CPU products really use, e.g. `OpenBLAS 0.3.34 (Zen)`."""
    if sys.platform == "darwin":
        return "Accelerate"
    slot = _slot()
    if slot is None:
        return "built in"
    path = _library(slot.value)
    return _version(path) or f"{Path(path).name} (slow; pip install scipy-openblas32)"


def _candidates() -> Iterator[tuple[str, str]]:
    """Where OpenBLAS may be, and the prefix of its names there."""
    spec = importlib.util.find_spec("scipy_openblas32")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in Path(folder, "lib").glob("lib*openblas*.so"):
            yield str(file), "scipy_"
    yield "libopenblas.so.0", ""


@cache  # it stays where it is, and to find it takes 10 ms
def _slot() -> ctypes.c_void_p | None:
    """The pointer through which `libmlx.so` calls its float32 matrix product.

    None where there is no such pointer to write to: not Linux, MLX not loaded,
    another way of linking.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    import mlx.core  # noqa: F401  (so that libmlx.so is loaded)

    maps = _mappings()
    parts = [part for part in maps if part.path.endswith("/libmlx.so")]
    if not parts:
        return None
    base = min(part.start - part.offset for part in parts if part.offset == 0)
    offset = _slot_offset(Path(parts[0].path), _GEMM)
    if offset is None:
        return None
    for part in maps:
        if part.start <= base + offset < part.end and "w" in part.access:
            return ctypes.c_void_p.from_address(base + offset)
    return None


def _mappings() -> list[_Mapping]:
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in fields[0].split("-"))
        path = fields[5] if len(fields) > 5 else ""
        mappings.append(_Mapping(start, end, fields[1], int(fields[2], 16), path))
    return mappings


def _slot_offset(library: Path, symbol: str) -> int | None:
    """Where, from its base, `library` keeps the address of the imported `symbol`."""
    with library.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        header = read(0, 64)
        if header[:6] != b"\x7fELF\x02\x01":  # 64 bit, little endian
            return None
        (table,) = struct.unpack_from("<Q", header, 40)
        size, count = struct.unpack_from("<HH", header, 58)
        raw = read(table, size * count)
        sections = [struct.unpack_from(_SECTION, raw, i * size) for i in range(count)]
        for section in sections:
            if section[1] != _RELA or sections[section[6]][1] != _DYNSYM:
                continue
            symbols = sections[section[6]]
            names = sections[symbols[6]]
            wanted = read(names[4], names[5]).find(b"\0" + symbol.encode() + b"\0") + 1
            entries = struct.iter_unpack(_SYMBOL, read(symbols[4], symbols[5]))
            index = [i for i, entry in enumerate(entries) if entry[0] == wanted]
            relocations = struct.iter_unpack(_RELOCATION, read(section[4], section[5]))
            for offset, info, _ in relocations:
                if wanted and info >> 32 in index:
                    return offset
    return None


def _library(address: int | None) -> str:
    """The file that holds the function at `address`.

    Before its first call a slot points back into its own library; the dynamic loader
    then decides, which looks in the program's global names first.
    """
    for handle in (
        None,
        *(p.path for p in _mappings() if p.path.endswith("/libmlx.so")),
    ):
        if address and not _file(address).endswith("/libmlx.so"):
            break
        try:
            address = _address(ctypes.CDLL(handle), _GEMM)
        except AttributeError:
            continue
    return _file(address or 0)


def _file(address: int) -> str:
    info = _DlInfo()
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_DlInfo)]
    return info.fname.decode() if dladdr(address, info) and info.fname else ""


def _address(library: ctypes.CDLL, symbol: str) -> int:
    return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0


def _version(path: str) -> str:
    """What an OpenBLAS library says of itself; empty for any other."""
    for prefix in _PREFIXES:
        try:
            config = getattr(ctypes.CDLL(path), f"{prefix}openblas_get_config")
        except (OSError, AttributeError):
            continue
        config.restype = ctypes.c_char_p
        # "OpenBLAS 0.3.34 DYNAMIC_ARCH NO_AFFINITY Zen MAX_THREADS=64"
        words = config().decode().split()
        return " ".join([*words[:2], f"({words[-2]})"])
    return ""
