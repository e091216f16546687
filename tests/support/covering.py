"""A pytest plugin for `make mutants`: notes which tests run which lines, or runs some.

With FASTVLM_COVERING a folder, coverage.py measures this process and its children into
it, in the context of the test at work; `Covering` reads that. With FASTVLM_CHOSEN a
file, only the tests that are named in it run.
"""

import ast
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_CONFIG = """[run]
data_file = {folder}/lines
source_dirs =
    {root}/fastvlm_mlx
    {root}/app
    {root}/convert
relative_files = true
parallel = true
sigterm = true
context = ${{FASTVLM_CONTEXT-}}
disable_warnings = no-data-collected,module-not-measured,module-not-imported
[paths]
checkout =
    ./
    {root}/
"""


def environment(folder: Path, root: Path) -> dict[str, str]:
    """What a run of pytest needs in its environment to be measured into `folder`.

    `root` is the tree that is measured. Processes that work elsewhere are measured too.
    """
    folder.mkdir()
    config = folder / "config"
    config.write_text(_CONFIG.format(folder=folder, root=root))
    return {"FASTVLM_COVERING": str(folder), "COVERAGE_PROCESS_START": str(config)}


class _Recorder:
    def __init__(self, folder: Path):
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()

    def _enter(self, context: str):
        import coverage  # pyright: ignore[reportMissingImports]

        os.environ["FASTVLM_CONTEXT"] = context
        if (measured := coverage.Coverage.current()) is not None:
            measured.switch_context(context)

    # What a fixture runs may serve all tests of the file.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        begun = time.monotonic()
        self._enter(item.nodeid.partition("::")[0])
        try:
            return (yield)
        finally:
            self._seconds[item.nodeid] = time.monotonic() - begun
            self._enter("")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._enter(item.nodeid)
        try:
            return (yield)
        finally:
            self._enter(item.nodeid.partition("::")[0])

    def pytest_runtest_logreport(self, report: pytest.TestReport):
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self):
        file = self._folder / f"tests-{os.getpid()}.json"
        file.write_text(json.dumps([self._seconds, sorted(self._failed)]))


def pytest_configure(config: pytest.Config):
    if folder := os.environ.get("FASTVLM_COVERING"):
        config.pluginmanager.register(_Recorder(Path(folder)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    if not (file := os.environ.get("FASTVLM_CHOSEN")):
        return
    names = json.loads(Path(file).read_text())
    order = {name: number for number, name in enumerate(names)}
    config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in order])
    items[:] = sorted(
        (item for item in items if item.nodeid in order),
        key=lambda item: order[item.nodeid],
    )


class Covering:
    """Which tests ran which lines, read from the folder of such a run.

    - `failed`: tests that failed, which are not among those that are named.
    """

    def __init__(self, folder: Path):
        import coverage  # pyright: ignore[reportMissingImports]

        measured = coverage.Coverage(config_file=str(folder / "config"))
        if (folder / "lines").exists():
            measured.load()
        else:
            measured.combine()
            measured.save()
        self._data = measured.get_data()
        self._seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        for file in folder.glob("tests-*.json"):
            seconds, failed = json.loads(file.read_text())
            self._seconds |= seconds
            self.failed.update(failed)
        for name in self.failed:
            self._seconds.pop(name, None)

    def tests(self, path: str, source: str, line: int, within: list[str]) -> list[str]:
        """The tests in the files `within` that run the code of `path`, by their ids.

        Those that run `line` come first, the quickest files before others.
        """
        lines = self._data.contexts_by_lineno(path)
        inside, at = set(), set()
        for first, last in _bodies(source):
            here = {c for n in range(first, last + 1) for c in lines.get(n, ())}
            inside |= here
            if first <= line <= last:
                at = set(lines.get(line, here)) or here
        if not inside:  # nothing but constants, or no test is known to run it
            inside = set(within)
        at_tests, all_tests = self._named(at, within), self._named(inside, within)
        return [*at_tests, *(name for name in all_tests if name not in set(at_tests))]

    def _named(self, contexts: set[str], within: list[str]) -> list[str]:
        found = [
            name
            for name in self._seconds
            if {name, name.partition("::")[0]} & contexts
            and name.partition("::")[0] in within
        ]
        cost: dict[str, float] = {}
        for name in found:
            file = name.partition("::")[0]
            cost[file] = cost.get(file, 0) + self._seconds[name]
        return sorted(found, key=lambda name: cost[name.partition("::")[0]])


def _bodies(source: str) -> Iterator[tuple[int, int]]:
    """First and last lines of the outermost functions' bodies, without signatures."""

    def visit(node: ast.AST) -> Iterator[tuple[int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child.body[0].lineno, child.end_lineno or child.lineno
            else:
                yield from visit(child)

    yield from visit(ast.parse(source))
