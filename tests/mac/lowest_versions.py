"""Runs the tests of what needs a library with the lowest versions allowed.

    python -m tests.mac.lowest_versions

pip keeps an old mlx-lm that satisfies pyproject.toml, so its lower bounds must be true.
uv installs them into an environment of its own; the test tools are today's.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.paths import ROOT

TESTS = (
    "tests/conversation",  # mlx, mlx-lm
    "tests/generation/test_batch.py",
    "tests/generation/test_constrained.py",  # llguidance
    "tests/model",
    "tests/processing",  # pillow, numpy, tokenizers, idna
    "tests/hub",  # huggingface_hub
    "tests/app/chat",  # typer, rich
    "tests/app/server/test_client_requests.py",  # pydantic, starlette, uvicorn
    "tests/convert/coreml/test_mil_encoder.py",  # coremltools
    "tests/test_load.py",
)
EXTRAS = "cpu,heic,mcp,pdf,serve,video"
TOOLS = (
    *("pytest", "pytest-xdist", "hypothesis", "jsonschema", "pexpect"),
    *("openai", "ollama"),
)


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
            ["--resolution", "lowest-direct", "--editable", f".[{EXTRAS}]"],
            TOOLS,
        ):
            subprocess.run(
                [*uv, "pip", "install", "--quiet", *into, *arguments],
                cwd=ROOT,
                check=True,
            )
        subprocess.run([*uv, "pip", "list", *into], check=True)
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += ["--numprocesses", "2", "--dist", "loadfile", *TESTS]
        return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
