"""`make mutants` itself: which changes it makes, and the same ones again."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SOURCE = '''"""A module."""

def area(width: int | None, height: int, *, unit: str | None = None) -> int:
    if width is None or height < 1:
        raise ValueError("no area")
    found = []
    found.append(width * height)
    return found[0]
'''


def changes(folder: Path, count: int = 100, seed: int = 1) -> list[str]:
    from tests.support.mutation_operators import sample

    (folder / "area.py").write_text(SOURCE)
    found = sample(folder, "area.py", count, seed)
    return [" ".join(mutant.diff.splitlines()[-1][1:].split()) for mutant in found]


def test_what_is_changed(tmp_path: Path):
    found = changes(tmp_path)
    for change in (
        "if width is None or height <= 1:",
        "if width is not None or height < 1:",
        "if width is None and height < 1:",
        "found.append(width / height)",
        "return found[ 1]",
        "pass",
    ):
        assert change in found, found
    assert found.count("pass") == 2  # the call and the raise
    assert not [change for change in found if "def " in change]  # no annotation


def test_a_seed_chooses_the_same_again(tmp_path: Path):
    assert len(changes(tmp_path, 3)) == 3
    assert changes(tmp_path, 3) == changes(tmp_path, 3)
    assert changes(tmp_path, 8) != changes(tmp_path, 8, seed=2)


def test_the_line_of_a_change(tmp_path: Path):
    from tests.support.mutation_operators import sample

    (tmp_path / "area.py").write_text(SOURCE)
    lines = SOURCE.splitlines()
    for mutant in sample(tmp_path, "area.py", 100, 1):
        changed = mutant.diff.splitlines()[3]
        assert changed == "-" + lines[mutant.line - 1]


def test_which_tests_run_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a recording says: tests of the line first, the quick files before others."""
    from tests.support.covering import Covering

    ran = {
        3: ["tests/a.py::far"],  # a signature: its line says nothing
        5: ["tests/a.py::both", "tests/b.py::one", "tests/c.py"],
        6: ["tests/b.py::one", "tests/c.py"],
        8: ["tests/a.py::both"],
    }
    covering = Covering.__new__(Covering)
    covering._seconds = {
        "tests/a.py::both": 0.5,
        "tests/a.py::far": 9.0,
        "tests/b.py::one": 0.1,
        "tests/c.py::fixture": 3.0,
        "tests/d.py::other": 0.0,
    }
    data: Any = SimpleNamespace(contexts_by_lineno=lambda path: ran)
    covering._data = data
    files = ["tests/a.py", "tests/b.py", "tests/c.py", "tests/d.py"]
    one, both = "tests/b.py::one", "tests/a.py::both"
    in_fixture = "tests/c.py::fixture"
    for line, within, expected in (
        (6, files, [one, in_fixture, both]),
        (8, files, [both, one, in_fixture]),
        (8, files[1:], [one, in_fixture]),
        (3, files, [one, both, in_fixture]),
        (1, files, [one, both, in_fixture]),
    ):
        assert covering.tests("area.py", SOURCE, line, within) == expected
    # Constants run when they are imported, whoever does it first.
    assert covering.tests("area.py", "A = 1\n", 1, files[2:]) == [
        "tests/d.py::other",
        in_fixture,
    ]


def test_every_file_has_its_tests():
    from tests.support.mutants import ROOT, chosen_files, tests_of, tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    files = chosen_files(settings["files"])
    assert len(files) > 30
    for file in files:
        tests = tests_of(file, settings["tests"])
        assert tests and all((ROOT / test).is_file() for test in tests)


def test_a_change_is_never_hidden_by_bytecode(tmp_path: Path):
    """A change of the same length within the same second is what is imported."""
    from tests.support.mutants import write

    file = tmp_path / "area.py"
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for expected in ("1", "2", "1"):
        write(file, f"print({expected})\n")
        command = [sys.executable, "-S", "-c", "import area"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True)
        assert done.stdout.decode() == f"{expected}\n"
    assert list((tmp_path / "bytecode").rglob("area.*.pyc"))


def test_the_tests_keep_bytecode_where_python_is_told_to_write_none(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
):
    from tests.support import bytecode

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    bytecode.keep(pytestconfig)
    script = "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True)
    if getattr(pytestconfig, "cache", None) is None:
        assert done.stdout == b"True None\n"
    else:
        assert sys.pycache_prefix and Path(sys.pycache_prefix).is_dir()
        assert done.stdout.decode() == f"False {sys.pycache_prefix}\n"


def test_processes_that_work_elsewhere_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("coverage")
    from tests.support.covering import Covering, environment

    root, folder, test = tmp_path / "tree", tmp_path / "measured", "tests/a.py::one"
    for name in ("fastvlm_mlx", "app", "convert"):
        (root / name).mkdir(parents=True)
    file = root / "fastvlm_mlx" / "area.py"
    file.write_text("def area():\n    return 1\n\narea()\n")
    environ = os.environ | environment(folder, root) | {"FASTVLM_CONTEXT": test}
    command = [sys.executable, str(file)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(command, cwd=elsewhere, env=environ, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    monkeypatch.chdir(root)  # as the checkout, it has the same files
    lines = Covering(folder)._data.contexts_by_lineno("fastvlm_mlx/area.py")
    assert lines == {1: [test], 2: [test], 4: [test]}
