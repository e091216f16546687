"""Changes the core's code in small ways and counts which changes a test notices.

    make mutants                                     the sample of pyproject.toml
    python -m tests.support.mutants fastvlm_mlx/generation --per-file 20

All tests run once without a change and are measured. Each change ("mutant") is then
made in a copy of the tree, where those tests of its folder that run the changed file do
until one fails, those that run the changed line first. Changes that no test noticed are
shown as diffs. Exits with 1 if fewer than `least` per cent were noticed, or if a test
fails without any change.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.support.copy_tree import copy_tree
from tests.support.covering import Covering, environment
from tests.support.mutation_operators import Mutant, sample
from tests.support.paths import ROOT

# Seconds since 1970, one for each file that is written.
_moments = itertools.count(1_000_000_000)

_NO_TESTS = 5  # pytest's exit code if it has nothing to run


class Copies:
    """Copies of the tree, one for each process that runs tests."""

    def __init__(self, folder: Path, count: int):
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy_tree(folder / str(number))
            self._free.put(folder / str(number))

    @contextmanager
    def one(self) -> Iterator[Path]:
        """A copy that nobody else uses."""
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)


def tests_of(path: str, settings: dict[str, list[str]]) -> list[str]:
    """The tests that cover a file: those named after it first, then its folder's."""
    folder = max((name for name in settings if path.startswith(name)), key=len)
    files = [
        file.relative_to(ROOT).as_posix()
        for place in settings[folder]
        for file in (
            sorted((ROOT / place).rglob("test_*.py"))
            if (ROOT / place).is_dir()
            else [ROOT / place]
        )
    ]
    stem = Path(path).stem
    return sorted(files, key=lambda file: stem not in Path(file).stem)


def passes(copy: Path, *arguments: str, limit: float, **variables: str) -> bool:
    """Whether all tests pass in `copy` within `limit` seconds.

    `arguments` are pytest's, `variables` go into its environment; its report is
    written to the file report.txt in `copy`.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environ = {**os.environ, "PYTHONPATH": str(copy)}
    if environ.pop("PYTHONDONTWRITEBYTECODE", None):
        environ["PYTHONPYCACHEPREFIX"] = str(copy.parent / "bytecode")
    with open(copy / "report.txt", "w") as report:
        process = subprocess.Popen(
            [*command, "-p", "tests.support.covering", *arguments],
            cwd=copy,
            env=environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=report,
            start_new_session=True,
        )
        try:
            return process.wait(limit) in (0, _NO_TESTS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def write(file: Path, text: str) -> None:
    """Writes a source so that bytecode of another state of it is never taken for its.

    Python compares times by the second, and two changes can fall into one.
    """
    file.write_text(text, encoding="utf-8")
    moment = next(_moments)
    os.utime(file, (moment, moment))


def pass_alone(copy: Path, tests: list[str], limit: float) -> bool:
    """Whether these tests, by their ids, pass in `copy`; the first failure ends it."""
    chosen = copy / "chosen.json"
    chosen.write_text(json.dumps(tests))
    files = dict.fromkeys(name.partition("::")[0] for name in tests)
    return passes(copy, "-x", *files, limit=limit, FASTVLM_CHOSEN=str(chosen))


def is_noticed(copies: Copies, mutant: Mutant, tests: list[str], limit: float) -> bool:
    with copies.one() as copy:
        file = copy / mutant.path
        write(file, mutant.mutated)
        begun = time.monotonic()
        try:
            noticed = bool(tests) and not pass_alone(copy, tests, limit)
        finally:
            write(file, mutant.source)
    change = "  ".join(mutant.diff.splitlines()[3:])
    word = "killed  " if noticed else "SURVIVED"
    print(f"{word} {time.monotonic() - begun:5.1f} s  {mutant.path}  {change}")
    return noticed


def chosen_files(paths: list[str]) -> list[str]:
    """The Python files of files and folders, relative to the checkout."""
    files = []
    for path in paths:
        place = ROOT / path
        found = sorted(place.glob("*.py")) if place.is_dir() else [place]
        files += [file.relative_to(ROOT).as_posix() for file in found]
    return [file for file in files if not file.endswith("__init__.py")]


def main() -> int:
    with open(ROOT / "pyproject.toml", "rb") as file:
        settings: dict[str, Any] = tomllib.load(file)["tool"]["mutants"]
    parser = argparse.ArgumentParser(description="Mutation tests of the core.")
    parser.add_argument("paths", nargs="*", default=settings["files"])
    parser.add_argument("--per-file", type=int, default=settings["per-file"])
    parser.add_argument("--seed", type=int, default=settings["seed"])
    parser.add_argument("--processes", type=int, default=settings["processes"])
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    mutants = [
        mutant
        for path in chosen_files(options.paths)
        for mutant in sample(ROOT, path, options.per_file, options.seed)
    ]
    tests = {m.path: tests_of(m.path, settings["tests"]) for m in mutants}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies = Copies(Path(folder), options.processes)
        every = sorted({file for files in tests.values() for file in files})
        measured = Path(folder, "measured")
        with copies.one() as copy:
            workers = f"--numprocesses={options.processes}"
            arguments = (workers, "--dist=loadfile", *every)
            variables = environment(measured, copy)
            if not passes(copy, *arguments, limit=7200, **variables):
                # Some tests of processes fail only because they are measured.
                failed = sorted(Covering(measured).failed)
                if not failed or not pass_alone(copy, failed, 7200):
                    report = (copy / "report.txt").read_text(errors="replace")
                    print("a test fails without any change:", report[-8000:])
                    return 1
                print(f"{len(failed)} tests cannot be measured and are left out")
        # A change can make a loop endless.
        limit = 60 + 2 * (time.monotonic() - begun)
        print(f"{len(mutants)} mutants; the tests pass without them")
        covering = Covering(measured)
        tried = [
            covering.tests(m.path, m.source, m.line, tests[m.path]) for m in mutants
        ]
        with ThreadPoolExecutor(options.processes) as pool:
            noticed = list(
                pool.map(
                    lambda m, names: is_noticed(copies, m, names, limit), mutants, tried
                )
            )
    for mutant, seen in zip(mutants, noticed, strict=True):
        if not seen:
            print(f"\n{mutant.diff}")
    share = 100 * sum(noticed) / len(noticed)
    minutes = (time.monotonic() - begun) / 60
    print(
        f"\n{sum(noticed)} of {len(noticed)} killed ({share:.0f} %),"
        f" {len(noticed) - sum(noticed)} survived, {minutes:.0f} min"
    )
    return 0 if share >= settings["least"] else 1


if __name__ == "__main__":
    sys.exit(main())
