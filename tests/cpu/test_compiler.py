"""Compiling the CPU kernels: all files at once, once, and beside other work."""

import ctypes
import shutil
import sys
import threading
from pathlib import Path

import pytest

from fastvlm_mlx import device
from fastvlm_mlx.cpu import compiler, kernels
from fastvlm_mlx.fastvlm import load

FLAGS = ("-shared", "-fPIC")


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    texts = {
        "shared.h": "inline int one() { return 1; }",
        "a.cpp": '#include "shared.h"\nint two() { return one() + 1; }',
        "b.cpp": 'int two();\nextern "C" int three() { return two() + 1; }',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def test_several_files_make_one_library(sources, tmp_path, monkeypatch):
    path = tmp_path / "cache" / "library.so"
    assert compiler.compiled(path, sources, FLAGS)
    assert ctypes.CDLL(str(path)).three() == 3
    monkeypatch.setenv("PATH", "")
    assert compiler.compiled(path, sources, FLAGS)  # it is there
    assert not compiler.compiled(tmp_path / "other.so", sources, FLAGS)


@pytest.mark.parametrize(
    "fault", ["no C++", 'extern "C" int three() { return two(); }']
)
def test_what_does_not_compile_leaves_nothing(sources, tmp_path, monkeypatch, fault):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sources[2].write_text(fault)
    path = tmp_path / "cache" / "library.so"
    assert not compiler.compiled(path, sources, FLAGS)
    assert not path.parent.exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_threads_wait_for_the_one_that_compiles(tmp_path, monkeypatch):
    calls = []

    def compile_one(path: Path, *rest: object) -> bool:
        calls.append(path)
        path.touch()
        return True

    monkeypatch.setattr(compiler, "_compile", compile_one)
    found: list[bool] = []
    target, path = compiler.compiled, tmp_path / "library.so"
    threads = [
        threading.Thread(target=lambda: found.append(target(path, [], [])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4 and calls == [path]


def test_a_large_model_has_them_compiled_while_it_loads(tmp_path, monkeypatch):
    if device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    path, started = tmp_path / "library.so", threading.Event()
    monkeypatch.setattr(kernels, "_path", lambda: path)
    monkeypatch.setattr(kernels, "compiled", lambda *arguments: started.set())
    kernels.prepare(kernels.WORTH_COMPILING - 1)
    path.touch()
    kernels.prepare(kernels.WORTH_COMPILING)
    assert not started.is_set()  # too small, and there already
    path.unlink()
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 10**5)
    load("demo")
    assert started.wait(10)
