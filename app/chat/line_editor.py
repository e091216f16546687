"""Reading lines at a prompt: arrow keys, Tab, and a history that lasts.

All of it is the standard library's readline (GNU or, on macOS, editline). Without
the module lines are still read, plainly.
"""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastvlm_mlx.app import terminal

try:
    import readline
except ImportError:  # Some Pythons are built without it.
    readline = None

LINES_KEPT = 1000


@contextmanager
def ready(history: Path, commands: Sequence[str]) -> Iterator[None]:
    """Complete `commands` and paths on Tab; read and keep earlier lines in `history`.

    A history that cannot be read or written is not worth an error: it is left out.
    """
    if readline is None:
        yield
        return
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(LINES_KEPT)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, state: _completion(text, state, commands))
    is_editline = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_editline else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(None)
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


def read(prompt: str) -> str | None:
    """One line; empty after Ctrl-C, None after Ctrl-D."""
    try:
        return input(prompt)
    except KeyboardInterrupt:
        terminal.note("")
        return ""
    except EOFError:
        terminal.note("")
        return None


def _completion(text: str, state: int, commands: Sequence[str]) -> str | None:
    # Python tells readline to add nothing behind a completion.
    names = [f"{name} " for name in commands if text and name.startswith(text)]
    folder = Path(text).expanduser() if text.startswith("~") else Path(text)
    if text:
        paths = sorted(glob.glob(glob.escape(str(folder)) + "*"))
        names += [p + "/" if Path(p).is_dir() else p for p in paths]
    return names[state] if state < len(names) else None
