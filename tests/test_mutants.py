"""`make mutants` itself: which changes it makes, and the same ones again."""

from pathlib import Path

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


def test_every_file_has_its_tests():
    from tests.support.mutants import ROOT, chosen_files, tests_of, tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    files = chosen_files(settings["files"])
    assert len(files) > 30
    for file in files:
        tests = tests_of(file, settings["tests"])
        assert tests and all((ROOT / test).is_file() for test in tests)
