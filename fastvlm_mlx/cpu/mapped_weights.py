"""Weights that the kernels read where they lie: in a map of their file.

MLX on a CPU cannot adopt memory, so reading weights means a copy of them. But an array
of `mx.load` costs nothing until it is evaluated, and the kernels need an address alone.
So a parameter is such an array, right for whoever evaluates it, and beside it this
module knows where its bytes lie. That is known of the array itself: what replaces it,
as an adapter's weights do, is another one. It must not be changed in place (`+=`).

A map shows the file as it is. Files that are written aside and renamed into place, as
by our conversions and by the hub's downloads, stay whole while they are mapped. What is
left: another program that cuts such a file in place later ends this process (SIGBUS),
and one that writes into it changes the weights, as with any program that maps them.
"""

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from fastvlm_mlx.files.safetensors_header import tensor_offsets

# Of file systems (statfs(2)) whose files may vanish or change under a map: NFS, SMB,
# CIFS, SMB2, AFS, Coda, 9P, Ceph, FUSE.
_REMOTE = {
    *(0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x5346414F, 0x73757245),
    *(0x01021997, 0x00C36400, 0x65735546),
}


class _Place(NamedTuple):
    """Where an array's bytes lie. The map lives as long as one of its arrays."""

    array: weakref.ref[mx.array]
    file: mmap.mmap
    offset: int
    address: int


_places: dict[int, _Place] = {}  # by the array's id
_readers: list[threading.Thread] = []

_CHUNK = 1 << 23  # bytes that are read at a time


def map_tensors(file: Path, names: Collection[str]) -> dict[str, mx.array]:
    """Those tensors of a safetensors file that can be mapped, not read.

    Any thread may evaluate them, but only one at a time.

    Args:
        file: one that `check_file` accepts.
        names: of the tensors that are wanted, if the file has them.
    Returns:
        all but those that begin at no multiple of their item's size; none of a file
        that does not lie on a local disk, or whose name MLX does not take.
    """
    if not _is_local(file) or not _is_text(file):
        return {}
    offsets = tensor_offsets(file)
    loaded = mx.load(str(file), format="safetensors", stream=_stream())
    assert isinstance(loaded, dict)
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    base = np.frombuffer(data, np.uint8).ctypes.data
    found = {
        name: loaded[name]
        for name in names
        if name in offsets
        and loaded[name].size
        and offsets[name] % loaded[name].itemsize == 0
    }
    for name, array in found.items():
        _note(array, data, offsets[name], base + offsets[name])
    return found


def read_ahead(file: Path, arrays: Collection[mx.array]) -> None:
    """Starts reading what the system's cache lacks of `file`, from the first of its
    mapped `arrays` to the last: a disk is quicker at that than at page after page."""
    places = [(_places[id(array)], array.nbytes) for array in arrays]
    if not places:
        return
    begin = min(place.offset for place, _ in places) // mmap.PAGESIZE * mmap.PAGESIZE
    end = max(place.offset + size for place, size in places)
    base = places[0][0].address - places[0][0].offset
    reader = threading.Thread(target=_read, args=(file, base, begin, end), daemon=True)
    reader.start()
    _readers.append(reader)


def wait() -> None:
    """Waits for what `read_ahead` started: a model is loaded when its weights are in
    memory or in the system's cache, and not when its first answer has fetched them."""
    while _readers:
        _readers.pop().join()


def _read(file: Path, base: int, begin: int, end: int) -> None:
    buffer = bytearray(_CHUNK)
    with contextlib.suppress(OSError), file.open("rb", buffering=0) as opened:
        for offset in range(begin, end, _CHUNK):
            if not _is_cached(base + offset, min(_CHUNK, end - offset)):
                opened.seek(offset)
                opened.readinto(buffer)


def _is_cached(start: int, size: int) -> bool:
    """Whether the system's cache has all pages there: mincore(2)."""
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    arguments = (ctypes.c_void_p(start), ctypes.c_size_t(size), pages)
    failed = ctypes.CDLL(None).mincore(*arguments)
    return not failed and all(page & 1 for page in bytes(pages))


def address(array: mx.array) -> int | None:
    """Where the bytes of a mapped array lie; None of any other."""
    place = _places.get(id(array))
    return None if place is None else place.address


def rows(array: mx.array, ids: mx.array) -> mx.array:
    """array[ids] of a matrix, from its map if it has one."""
    place = _places.get(id(array))
    if place is None:
        return array[ids]
    width = array.itemsize
    kind = np.dtype(f"u{width}")
    table = np.frombuffer(place.file, kind, array.size, place.offset)
    found = mx.array(table.reshape(array.shape)[np.array(ids)])
    return found if found.dtype == array.dtype else found.view(array.dtype)


def release(arrays: Iterable[mx.array]) -> None:
    """Gives the memory of mapped arrays back to the system, whose cache keeps their
    pages: 200 MB are there again in some milliseconds."""
    for array in arrays:
        if place := _places.get(id(array)):
            begin = place.offset // mmap.PAGESIZE * mmap.PAGESIZE
            length = place.offset + array.nbytes - begin
            place.file.madvise(mmap.MADV_DONTNEED, begin, length)


def _note(array: mx.array, data: mmap.mmap, offset: int, where: int) -> None:
    key = id(array)
    _places[key] = _Place(
        weakref.ref(array, lambda _: _places.pop(key, None)), data, offset, where
    )


@cache
def _stream() -> mx.Stream:
    # Of other streams, only the thread that described an array can evaluate it.
    return mx.new_thread_unsafe_stream(mx.cpu)


def _is_text(file: Path) -> bool:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_local(file: Path) -> bool:
    """Whether a file lies on a disk of this machine, as far as the system says."""
    status = (ctypes.c_long * 64)()  # a `struct statfs` begins with `f_type`
    failed = ctypes.CDLL(None).statfs(os.fsencode(file), status)
    return not failed and status[0] & 0xFFFFFFFF not in _REMOTE
