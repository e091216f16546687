"""The README shows `--help` as it is.

A line `<!-- help: chat -->` is followed by a fenced block with the help of that
command; `<!-- help -->` is the program's own. `python -m tests.app.test_help` rewrites
the blocks in place.
"""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from unittest import mock

import pytest
import typer

from fastvlm_mlx.app import cli
from tests.support.paths import ROOT

README = ROOT / "README.md"
BLOCK = re.compile(
    r"(?P<marker><!-- help:? *(?P<command>[\w ]*?) *-->\n+```\w*\n)"
    r"(?P<text>.*?)(?P<end>^```)",
    re.DOTALL | re.MULTILINE,
)
COMMANDS = ["", *vars(typer.main.get_command(cli.app))["commands"]]


def help_of(command: str) -> str:
    """What a terminal of 80 columns shows."""
    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="80"), redirect_stdout(shown):
        with suppress(SystemExit):
            cli.main([*command.split(), "--help"])
    return shown.getvalue()


def renewed(text: str) -> str:
    """`text` with every marked block as the program prints it now."""
    return BLOCK.sub(
        lambda block: block["marker"] + help_of(block["command"]) + block["end"], text
    )


def test_the_readme_shows_the_help():
    if not README.exists():
        pytest.skip("no README here")
    text = README.read_text(encoding="utf-8")
    assert text == renewed(text), "run `python -m tests.app.test_help`"


def test_blocks_are_found_and_rewritten():
    text = "# X\n<!-- help: info -->\n```\nold\n```\nrest\n```\nkept\n```\n"
    new = renewed(text)
    assert new.startswith("# X\n<!-- help: info -->\n```\nUsage: fastvlm-mlx info")
    assert new.endswith("\n```\nrest\n```\nkept\n```\n")
    assert renewed(new) == new


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_plain_and_narrow(command):
    text = help_of(command)
    assert text.isascii() and text.startswith("Usage: fastvlm-mlx")
    assert max(map(len, text.splitlines())) <= 80


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
