"""The README's commands run as they stand.

A line `<!-- run -->` marks a shell block, `<!-- python -->` a Python one; they run in
the checkout, with the environment's own `fastvlm-mlx`, and must succeed and print.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

BLOCK = re.compile(
    r"<!-- (run|python) -->\n+```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE
)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_there_is_something_to_run():
    assert {kind for kind, _ in BLOCKS} == {"run", "python"}


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_block_runs(kind: str, text: str):
    folder = Path(sys.executable).parent
    interpreter = ["sh", "-e", "-c"] if kind == "run" else [sys.executable, "-c"]
    done = subprocess.run(
        [*interpreter, text],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr


def test_make_chat_is_the_first_example():
    """`make chat` and the README's first example ask the same question."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = next(text for kind, text in BLOCKS if kind == "run").strip()
    assert command in makefile.replace("$(BIN)/", "")
