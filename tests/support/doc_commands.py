"""Parses the commands of README.md and docs/*.md with the parsers of their programs."""

import re
import runpy
import sys
import tomllib
from unittest import mock

import pytest
import typer

from fastvlm_mlx.app import cli
from fastvlm_mlx.app.optional_values import with_values
from tests.support.doc_blocks import existing
from tests.support.paths import ROOT

PROGRAM = typer.main.get_command(cli.app)


def parse(words: list[str]) -> None:
    """Parses one call as its program would.

    Raises:
        Exception: the program would refuse it, or it is unknown.
    """
    match words:
        case ["fastvlm-mlx", *arguments]:
            parse_ours(arguments)
        case ["make", target, *_]:
            makefile = (ROOT / "Makefile").read_text("utf-8")
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        case ["pip" | "uv", *arguments]:
            assert "install" in arguments
            check_extras(arguments[-1])
        case ["uvx", "--from", _, *rest]:
            parse(rest)
        case ["claude", "mcp", "add", _, "--", *rest]:
            parse(rest)
        case ["mlx.launch", *arguments]:
            parse(arguments[arguments.index("--") + 1 :])
        case ["python", file, *_] if file.startswith("examples/"):
            assert (ROOT / file).is_file(), file
        case ["python", "-m", "pytest", *arguments]:
            paths = [one for one in arguments if one.startswith("tests")]
            assert all(existing(path) for path in paths), paths
        case ["python", "-m", module, *arguments]:
            parse_module(module, arguments)
        case ["source", file]:
            assert file == ".venv/bin/activate"  # which `make` makes
        case ["cat", file]:
            assert existing(file)
        case _:
            raise AssertionError(f"{words[0]}: no parser is known")


def parse_ours(arguments: list[str]) -> None:
    """Parses the arguments of `fastvlm-mlx`, down to the command of a group."""
    if arguments[0].startswith("--"):  # not made a context of, which would install
        assert any(arguments == [p.opts[0]] for p in PROGRAM.params), arguments
        return
    command, name = PROGRAM, "fastvlm-mlx"
    while children := getattr(command, "commands", None):
        name, *arguments = arguments
        assert name in children, f"{name}: there is no such command"
        command = children[name]
    command.make_context(name, with_values(arguments))


class Parsed(Exception):
    """The module has parsed its arguments."""


def parse_module(module: str, arguments: list[str]) -> None:
    """Parses the arguments of a module with its own `argparse` parser, and stops it."""
    from argparse import ArgumentParser

    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    if module.startswith("training.") or not arguments:
        return  # training imports PyTorch, which is not installed here
    original = ArgumentParser.parse_args

    def parse_args(self: ArgumentParser, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        raise Parsed

    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(ArgumentParser, "parse_args", parse_args),
        mock.patch.dict(sys.modules),
        pytest.raises(Parsed),
    ):
        # Another test may have imported it, of which runpy warns.
        sys.modules.pop(f"{module}.__main__", None)
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__")


def check_extras(requirement: str) -> None:
    """Every extra named in a requirement is one of pyproject's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    if found := re.search(r"\[(.*)\]", requirement):
        extras = set(found[1].split(","))
        assert extras <= set(project["optional-dependencies"]), requirement
