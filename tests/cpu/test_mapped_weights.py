"""Tensors that are mapped, not read: where they lie, how long, who may use them."""

import ctypes
import gc
import itertools
import json
import mmap
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.cpu import mapped_weights, stored_weights
from fastvlm_mlx.cpu.mapped_weights import address, map_tensors, release, rows
from fastvlm_mlx.weights.aligned_file import write_aligned
from tests.support.mapped_files import resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="maps are Linux's")

WANTED = {
    "half": mx.random.normal((300, 64)).astype(mx.bfloat16),
    "packed": mx.arange(640).reshape(10, 64).astype(mx.uint32),
    "single": mx.random.normal((9,)),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    mx.eval(WANTED)
    write_aligned(tmp_path / "a.safetensors", WANTED, {})
    return tmp_path / "a.safetensors"


def unevaluated(arrays: list[mx.array]) -> bool:
    """Whether none was evaluated before; now all are."""
    before = mx.get_active_memory()
    mx.eval(arrays)
    return mx.get_active_memory() - before >= sum(array.nbytes for array in arrays)


def test_what_lies_there_is_what_is_evaluated(file: Path):
    found = map_tensors(file, [*WANTED, "another"])
    assert found.keys() == WANTED.keys()
    for name, array in found.items():
        where = address(array)
        assert where is not None and where == stored_weights.address(array)
        assert (array.dtype, array.shape) == (WANTED[name].dtype, WANTED[name].shape)
        here = stored_weights.address(WANTED[name])
        size = array.nbytes
        assert mapped_bytes(where, size) == mapped_bytes(here, size)
    assert unevaluated(list(found.values()))
    assert all(mx.array_equal(found[name], WANTED[name]) for name in WANTED)


def mapped_bytes(where: int, size: int) -> bytes:
    return ctypes.string_at(where, size)


@pytest.mark.parametrize("name", ["half", "packed"])
def test_rows_are_read_from_the_map(file: Path, name: str):
    table = map_tensors(file, [name])[name]
    ids = mx.array([[3, 9, 0], [1, 1, -1]])
    assert mx.array_equal(rows(table, ids), WANTED[name][ids])
    assert rows(table, ids).dtype == table.dtype
    assert unevaluated([table])
    assert mx.array_equal(rows(WANTED[name], ids), WANTED[name][ids])


def test_another_array_is_not_mapped(file: Path):
    array = map_tensors(file, ["half"])["half"]
    assert address(array[:1]) is None and address(array.astype(mx.float32)) is None
    assert address(mx.zeros(1)) is None


def test_a_map_goes_with_its_last_array(file: Path):
    found = map_tensors(file, WANTED)
    assert resident(file) is not None
    del found["single"], found["packed"]
    gc.collect()
    assert resident(file) is not None and address(found["half"])
    known = len(mapped_weights._places)
    found.clear()
    gc.collect()
    assert resident(file) is None
    assert len(mapped_weights._places) == known - 1


def test_memory_is_given_back(file: Path):
    table = map_tensors(file, ["half"])["half"]
    wanted = rows(table, mx.arange(300))
    assert resident(file)
    release([mx.zeros(3)])
    assert resident(file)
    release([table])
    assert resident(file) == 0
    assert mx.array_equal(rows(table, mx.arange(300)), wanted)


def test_any_thread_may_evaluate(file: Path):
    found, sums = map_tensors(file, WANTED), []

    def add() -> None:
        sums.extend(array.astype(mx.float32).sum().item() for array in found.values())

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert sums == [WANTED[n].astype(mx.float32).sum().item() for n in found]


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_what_is_not_aligned_is_left_out(file: Path, shift: int):
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little") + shift
    header = data[8 : 8 + length - shift] + b" " * shift
    json.loads(header)
    file.write_bytes(length.to_bytes(8, "little") + header + data[8 + length - shift :])
    left = {name for name, array in WANTED.items() if array.itemsize > shift}
    assert map_tensors(file, WANTED).keys() == WANTED.keys() - left


def test_a_remote_disk_and_a_name_that_is_no_text(file: Path, monkeypatch):
    odd = file.parent / "caf\udce9.safetensors"
    try:
        odd.write_bytes(file.read_bytes())
    except OSError:
        pass  # this disk takes UTF-8 names only
    else:
        assert map_tensors(odd, WANTED) == {}
    assert mapped_weights._is_local(file)
    assert not mapped_weights._is_local(file / "nowhere")
    monkeypatch.setattr(mapped_weights, "_is_local", lambda file: False)
    assert map_tensors(file, WANTED) == {}


@pytest.mark.parametrize("is_cached", [False, True])
def test_what_the_cache_lacks_is_read_ahead(file: Path, monkeypatch, is_cached: bool):
    asked: list[tuple[int, int]] = []

    def cached(start: int, size: int) -> bool:
        asked.append((start, size))
        return is_cached

    monkeypatch.setattr(mapped_weights, "_is_cached", cached)
    monkeypatch.setattr(mapped_weights, "_CHUNK", mmap.PAGESIZE)
    found = map_tensors(file, ["half", "packed"])
    mapped_weights.read_ahead(file, [])
    mapped_weights.wait()
    assert not asked
    before = bytes_read()
    mapped_weights.read_ahead(file, found.values())
    mapped_weights.wait()
    places = [(address(array), array.nbytes) for array in found.values()]
    assert asked[0][0] <= min(start for start, _ in places if start)
    assert sum(asked[-1]) == max(start + size for start, size in places if start)
    assert all(a + size == b for (a, size), (b, _) in itertools.pairwise(asked))
    assert (bytes_read() - before >= file.stat().st_size // 2) is not is_cached


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].removeprefix("rchar:"))


def test_what_the_cache_has_is_told_page_by_page(file: Path):
    found = map_tensors(file, ["half"])["half"]
    start = (address(found) or 0) // mmap.PAGESIZE * mmap.PAGESIZE
    assert mapped_weights._is_cached(start, found.nbytes)
    assert not mapped_weights._is_cached(0, mmap.PAGESIZE)
