"""Drives `fastvlm-mlx chat` through a pseudo-terminal."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pexpect

PROMPT = "\r\n> "
BRACKETS = "\x1b[?2004h"  # asks a terminal to mark what is pasted


def start(folder: Path, *arguments: str, before: str = "", **env: str) -> pexpect.spawn:
    """A conversation at its first prompt; `before` is Python that runs first."""
    module, *rest = arguments or ("tests.support.echo", str(folder))
    code = f"{before}\nimport runpy; runpy.run_module({module!r}, run_name='__main__')"
    environment = {"TERM": "dumb", "FASTVLM_CACHE": str(folder / "cache"), **env}
    child: Any = pexpect.spawn(
        sys.executable,
        ["-c", code, *rest],
        env={**os.environ, **environment},
        encoding="utf-8",
        codec_errors="replace",
        timeout=20,
        dimensions=(40, 200),
    )
    for waiter in (child, child.ptyproc):
        waiter.delayafterclose = 0.02
        # A killed process that loaded a model takes a while to go on a busy machine.
        waiter.delayafterterminate = 0.3
    child.delaybeforesend = None
    child.expect(f"\r\n({re.escape(BRACKETS)})?> ")
    return child


def say(child: pexpect.spawn, line: str, until: str = PROMPT) -> str:
    """Type a line; what was printed between it and the next prompt."""
    child.sendline(line)
    child.expect_exact(until)
    echo, _, output = str(child.before).partition("\r\n")
    return output.replace("\r\n", "\n")
