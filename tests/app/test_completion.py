"""Shell completion, installed by its one command, in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

# What an interactive shell is started with.
SHELLS = {
    "bash": ["--noprofile"],
    "zsh": [],
    "fish": [
        "--no-config",
        "--init-command",
        "source ~/.config/fish/completions/*.fish",
    ],
}
ABSENT = {"bash": "no bash here", "zsh": "no zsh here", "fish": "no fish here"}
CLEAR = "\x15"  # Control-U
# Commands that make the prompt "ready> ", in two parts: terminals repeat what is typed.
PROMPT = {
    "bash": "PS1='rea''dy> '; bind 'set bell-style none'",
    "zsh": "PS1='rea''dy> '; unsetopt prompt_sp",
    "fish": "function fish_prompt; echo -n 'rea''dy> '; end",
}


@pytest.mark.slow  # each Tab starts the program
@pytest.mark.parametrize("shell", SHELLS)
def test_installed_by_one_command(shell: str, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(ABSENT[shell])
    scripts = Path(sys.executable).parent
    environment = os.environ | {
        "HOME": str(tmp_path),
        "ZDOTDIR": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
        "XDG_DATA_HOME": str(tmp_path / ".data"),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "TERM": "dumb" if shell != "fish" else "xterm",
    }
    # `true`: a shell with one command would become that, and not be seen.
    done = subprocess.run(
        [shell, "-c", "fastvlm-mlx --install-completion; true"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert f"{shell} completion installed in {tmp_path}" in done.stdout, done.stderr
    (tmp_path / "photograph.jpg").touch()
    terminal = pexpect.spawn(
        shell,
        [*SHELLS[shell], "-i"],
        env=environment,
        cwd=str(tmp_path),
        encoding="utf-8",
        timeout=60,
        dimensions=(24, 200),
    )
    with terminal:
        terminal.sendline(PROMPT[shell])
        terminal.expect_exact("ready> ")
        if shell == "zsh":
            # The first Tab of a zsh only loads typer's script.
            terminal.send("fastvlm-mlx \t")
            terminal.send(CLEAR)
        for typed, added in (
            ("fastvlm-mlx capt", "ion"),
            ("fastvlm-mlx caption --mod", "el"),
            ("fastvlm-mlx chat --model 1.", "5b"),
            ("fastvlm-mlx caption --preset alt", "-text"),
            ("fastvlm-mlx chat photogr", "aph.jpg"),
        ):
            terminal.send(f"{typed}\t")
            terminal.expect_exact(added)
            terminal.send(CLEAR)
