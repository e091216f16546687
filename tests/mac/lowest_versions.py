"""Runs the tests of conversations and caches with the lowest versions allowed.

    python -m tests.mac.lowest_versions

pip keeps an old mlx-lm that satisfies pyproject.toml, so its lower bounds must be true.
uv installs them into an environment of its own; the test tools are today's.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.paths import ROOT

TESTS = ("tests/conversation", "tests/generation", "tests/model", "tests/test_load.py")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        uv = [sys.executable, "-m", "uv"]
        python = Path(folder, "bin", "python")
        subprocess.run(
            [*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True
        )
        # `python -m uv` would install into the environment that it is run from.
        into = ["--python", str(python)]
        for arguments in (
            ["--resolution", "lowest-direct", "--editable", ".[cpu,serve]"],
            ["pytest", "hypothesis", "jsonschema"],
        ):
            subprocess.run(
                [*uv, "pip", "install", "--quiet", *into, *arguments],
                cwd=ROOT,
                check=True,
            )
        subprocess.run([*uv, "pip", "list", *into], check=True)
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
