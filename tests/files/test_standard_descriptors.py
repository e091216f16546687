"""Programs that were started with standard input, output or error closed."""

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

LOAD = """
import os, sys
from fastvlm_mlx import load
os.closerange(0, 3)
assert load("demo").config.text is not None
os.write(1, b"goes nowhere")
"""


def run(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirection}', "-", sys.executable]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("closed", ["<&-", "2>&-"])
def test_commands_with_closed_streams(closed: str):
    done = run(closed, "-m", "fastvlm_mlx", "info", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model ")


TOLD = "error: standard output is closed; open it, or send it to a file with > FILE\n"


@pytest.mark.parametrize(
    ("closing", "told", "command"),
    [
        ("<&- >&- 2>&-", "", ["info", "demo"]),
        (">&-", TOLD, ["info", "demo"]),
        (">&-", TOLD, ["bench", "--json"]),
        (">&-", TOLD, ["bench", "--compare", "a", "b"]),
    ],
)
def test_what_only_prints_needs_an_output(closing: str, told: str, command: list[str]):
    done = run(closing, "-m", "fastvlm_mlx", *command)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.slow  # tests/app/test_cli.py asks without an image
def test_an_answer_with_closed_input():
    question = ["chat", "examples/number.png", "-m", "demo", "-p", "What is this?"]
    done = run("<&-", "-m", "fastvlm_mlx", *question)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("</dev/null", "-m", "fastvlm_mlx", *question).stdout != ""


def test_loading_in_a_program_without_streams():
    assert run("", "-c", LOAD).returncode == 0
