"""Commands in the documentation name existing modules and options."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "fastvlm_mlx" / "demo" / "MODEL_CARD.md",
    ROOT / "training" / "MODEL_CARD.md",
    ROOT / "training" / "README.md",
]
COMMAND = re.compile(
    r"python -m ((?:benchmarks|training)[\w.]*)([^`\n#]*(?:\\\n[^`#]*)?)"
)
COMMANDS = sorted(
    {
        (match[1], option)
        for page in PAGES
        for match in COMMAND.finditer(page.read_text())
        for option in re.findall(r"(?<=\s)--[a-z-]+", match[2]) or [""]
    }
)


def source_of(module: str) -> Path:
    place = ROOT.joinpath(*module.split("."))
    return place / "__main__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.mark.parametrize(("module", "option"), COMMANDS)
def test_a_documented_command_exists(module: str, option: str):
    source = source_of(module)
    assert source.is_file()
    assert not option or f'"{option}"' in source.read_text()


def test_the_pages_have_commands():
    assert {"benchmarks.peers", "benchmarks.accuracy"} <= {m for m, _ in COMMANDS}


def test_peers_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m benchmarks.peers")
