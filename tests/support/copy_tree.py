"""Copies the checkout for a run of the tests on changed code."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.support.paths import ROOT


def copy_tree(folder: Path) -> None:
    """Copies what git has or would add, so without .venv and ignored files.

    Links are copied as links.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
