"""docs/cli.md shows `--help` of every command as the program prints it.

`python -m tests.app.test_help` writes the page anew.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from unittest import mock

import pytest
import typer

from fastvlm_mlx.app import cli
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "cli.md"
HEAD = """# Command line

Written by `python -m tests.app.test_help` from `--help`. Do not edit.

The answer goes to standard output, everything else to standard error. The exit code is
0, 1 after an error (one line on standard error), 2 for a command line that cannot be
parsed, 130 after Ctrl-C.
"""


def commands(group: object = None, path: str = "") -> Iterator[str]:
    """Every command and group, `""` being the program, in the order of `--help`."""
    yield path
    found = typer.main.get_command(cli.app) if group is None else group
    for name, command in getattr(found, "commands", {}).items():
        yield from commands(command, f"{path} {name}".strip())


COMMANDS = list(commands())


def help_of(command: str) -> str:
    """What a terminal of 80 columns shows."""
    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="80"), redirect_stdout(shown):
        with suppress(SystemExit):
            cli.main([*command.split(), "--help"])
    return shown.getvalue()


def page() -> str:
    """The whole page: a heading and a block for each command."""
    sections = (
        f"\n## {' '.join(('fastvlm-mlx', command)).strip()}\n"
        f"\n```text\n{help_of(command)}```\n"
        for command in COMMANDS
    )
    return HEAD + "".join(sections)


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_groups_are_walked():
    outer, inner = typer.Typer(), typer.Typer()
    for app, name in ((outer, "one"), (inner, "two"), (inner, "three")):
        app.command(name)(lambda: None)
    outer.add_typer(inner, name="group")
    found = set(commands(typer.main.get_command(outer)))
    assert found == {"", "one", "group", "group two", "group three"}


def test_the_page_has_every_command():
    found = re.findall(r"^## fastvlm-mlx ?(.*)$", page(), re.MULTILINE)
    assert found == COMMANDS
    assert len(found) > 5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_plain_and_narrow(command):
    text = help_of(command)
    assert text.isascii() and text.startswith("Usage: fastvlm-mlx")
    assert max(map(len, text.splitlines())) <= 80


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
