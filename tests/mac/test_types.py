"""pyright for macOS, as `make lint` runs it, sees what macOS does not have."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mac  # pyright takes seconds


@pytest.mark.parametrize(("platform", "status"), [("Linux", 0), ("Darwin", 1)])
def test_a_function_that_only_linux_has(platform: str, status: int, tmp_path: Path):
    file = tmp_path / "affinity.py"
    file.write_text("import os\n\nprint(os.sched_getaffinity(0))\n")
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonplatform", platform, str(file)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == status, run.stdout
    assert ("sched_getaffinity" in run.stdout) is (platform == "Darwin")
