"""Which Python the Makefile takes for `.venv`, on machines that have others too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# A Python of any version that can only make environments and install nothing.
FAKE = """#!/bin/sh
case "$1 $2" in
  "-c "*) exec {real} -c "import sys; sys.version_info = {version}; $2" ;;
  "-m venv")
    for folder; do :; done
    mkdir -p "$folder/bin"
    echo {name} > "$folder/made-by"
    cp "$0" "$folder/bin/python"
    printf '#!/bin/sh\\nexit 0\\n' > "$folder/bin/fastvlm-mlx"
    chmod +x "$folder/bin/fastvlm-mlx" ;;
  *) exit 0 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path):
    """Runs `make` where only the named Pythons are, each of a version."""
    tools, place = tmp_path / "bin", tmp_path / "clone"
    tools.mkdir()
    place.mkdir()
    shutil.copy(ROOT / "Makefile", place)
    (place / "pyproject.toml").touch()
    for tool in ("make", "sh", "mkdir", "cp", "chmod", "touch", "head", "rm"):
        found = shutil.which(tool)
        assert found, tool
        (tools / tool).symlink_to(found)

    def make(*arguments: str, **pythons: tuple[int, int]):
        for old in tools.glob("python*"):
            old.unlink()
        for key, version in pythons.items():
            name = key.replace("_", ".")
            file = tools / name
            real = sys.executable
            file.write_text(FAKE.format(real=real, version=(*version, 0), name=name))
            file.chmod(0o755)
        run = subprocess.run(
            [tools / "make", *arguments],
            cwd=place,
            env={"PATH": str(tools), "HOME": os.environ.get("HOME", "")},
            capture_output=True,
            text=True,
        )
        made_by = place / ".venv" / "made-by"
        return run, made_by.read_text().strip() if made_by.exists() else None

    return make


@pytest.mark.parametrize(
    ("pythons", "wanted"),
    [
        ({"python3": (3, 11)}, "python3"),
        ({"python3": (3, 13), "python3_12": (3, 12)}, "python3"),
        ({"python3": (3, 9), "python3_12": (3, 12)}, "python3.12"),
        (
            {"python3": (3, 10), "python3_12": (3, 12), "python3_13": (3, 13)},
            "python3.13",
        ),
        ({"python3": (3, 14), "python3_11": (3, 11)}, "python3.11"),
        ({"python3": (3, 14)}, "python3"),
        ({"python3": (3, 9), "python3_14": (3, 14)}, "python3.14"),
    ],
    ids=str,
)
def test_the_first_python_that_fits(machine, pythons, wanted):
    run, made_by = machine("chat", **pythons)
    assert run.returncode == 0, run.stderr
    assert made_by == wanted


@pytest.mark.parametrize("pythons", [{}, {"python3": (3, 9)}], ids=str)
def test_no_python_that_fits_is_one_line(machine, pythons):
    run, made_by = machine("chat", **pythons)
    assert made_by is None and run.returncode == 2
    line, *rest = run.stderr.splitlines()
    assert line.startswith("error: python3: not a Python from 3.11 on; install one")
    assert "brew install python@3.13" in line and len(rest) == 1  # and make's own


def test_a_named_python(machine):
    pythons = {"python3": (3, 12), "other": (3, 13), "old": (3, 8)}
    run, made_by = machine("chat", "PYTHON=old", **pythons)
    assert run.returncode == 2 and run.stderr.startswith("error: old: not a Python")
    assert made_by is None
    run, made_by = machine("chat", "PYTHON=other", **pythons)
    assert run.returncode == 0 and made_by == "other"


def test_an_environment_of_an_old_python_is_made_anew(machine, tmp_path: Path):
    venv = tmp_path / "clone" / ".venv" / "bin"
    venv.mkdir(parents=True)
    old = venv / "python"  # half-made: it has no pip, or is too old
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run, made_by = machine("chat", python3=(3, 12))
    assert run.returncode == 0 and made_by == "python3"
    run, made_by = machine("chat", other=(3, 13))  # whole: kept
    assert run.returncode == 0 and made_by == "python3"
