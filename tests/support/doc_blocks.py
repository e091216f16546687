"""The code blocks of README.md and docs/*.md, and the shell commands in them."""

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.paths import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELLS = ("sh", "shell", "bash", "console")
# Blocks without a language are commands too if they begin like one.
COMMAND = re.compile(r"(fastvlm-mlx|python|make|pip|uv|uvx) ")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its number there, its language and its text."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"

    @cached_property
    def is_shell(self) -> bool:
        if self.language:
            return self.language in SHELLS
        return COMMAND.match(self.text) is not None

    @cached_property
    def commands(self) -> list[str]:
        """Its command lines: continued lines joined, comments and blanks left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in map(uncommented, lines) if line]


def uncommented(line: str) -> str:
    """A command line without its comment."""
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def blocks() -> list[Block]:
    """All blocks of all pages, README.md first."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        Block(page.relative_to(ROOT).as_posix(), number, *found.groups())
        for page in pages
        for number, found in enumerate(FENCE.finditer(page.read_text("utf-8")), 1)
    ]


def programs(command: str) -> list[list[str]]:
    """The calls of a command line, split at pipes; a redirection is left out.

    Raises:
        ValueError: it uses shell syntax that this does not know.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>&;()")
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word == "|":
            calls.append([])
        elif word in (">", "<"):
            next(words)
        elif set(word) <= set("|<>&;()"):
            raise ValueError(f"{command}: {word!r} is not understood")
        else:
            calls[-1].append(word)
    return calls


def existing(pattern: str) -> list[Path]:
    """The files of the checkout that a path, a glob or a `file.py::test` names."""
    return sorted(ROOT.glob(pattern.partition("::")[0]))
