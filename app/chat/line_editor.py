"""Reading lines at a prompt: arrow keys, Tab, pasted text, and a history that lasts.

All of it is the standard library's readline (GNU or, on macOS, editline). Without
the module lines are still read, plainly.
"""

import os
import select
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat import completion

try:
    import readline
except ImportError:  # Some Pythons are built without it.
    readline = None

LINES_KEPT = 1000
# A terminal hands over a pasted text in pieces, this many seconds apart at most.
PASTE_GAP = 0.03

Reader = Callable[[str], str | None]


@contextmanager
def ready(history: Path, commands: Sequence[str]) -> Iterator[Reader]:
    """Yields the function that shows a prompt and reads what is typed there.

    It returns one line, or several that were pasted at once, with line ends between
    them; an empty text after Ctrl-C, None after Ctrl-D. Tab completes `commands` and
    paths; earlier lines are read from `history` and kept there. A history that cannot
    be read or written is not worth an error: it is left out.
    """
    # A byte that is no UTF-8 may be part of a path, and must not end the session.
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="surrogateescape")
    if readline is None:
        yield _Pasted(_read_plainly).read
        return
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(LINES_KEPT)
    readline.set_completer_delims(" \t\n")
    readline.set_completer(lambda text, state: _completion(text, state, commands))
    readline.parse_and_bind(
        "bind ^I rl_complete" if _is_editline() else "tab: complete"
    )
    brackets = knows_brackets(os.environ.get("TERM", ""))
    if brackets:
        # Python turns it off, for programs that compare what a terminal shows.
        readline.parse_and_bind("set enable-bracketed-paste on")
    try:
        yield _read_bracketed if brackets else _Pasted(input).read
    finally:
        readline.set_completer(None)
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)


def knows_brackets(term: str) -> bool:
    """Whether readline (GNU's, from 8.1) and the terminal mark where a paste ends."""
    if readline is None or _is_editline():
        return False
    version = getattr(readline, "_READLINE_RUNTIME_VERSION", 0)
    return version >= 0x0801 and term not in ("", "dumb")


def _is_editline() -> bool:
    return "libedit" in (getattr(readline, "__doc__", "") or "")


def _read_bracketed(prompt: str) -> str | None:
    text = _guarded(input, prompt)
    if readline is not None and text and "\n" in text.strip():
        # The file of the history would hold each of its lines as a question.
        last = readline.get_current_history_length() - 1
        with suppress(ValueError):
            readline.replace_history_item(last, " ".join(text.split()))
    return text


def _read_plainly(prompt: str) -> str:
    # input() takes a NUL for the end of the line, or of the session.
    print(prompt, end="", flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode(sys.stdin.encoding, "surrogateescape").rstrip("\n")


def _guarded(read: Callable[[str], str], prompt: str) -> str | None:
    try:
        return read(prompt)
    except KeyboardInterrupt:
        terminal.note("")
        return ""
    except (EOFError, OSError):  # OSError: the terminal itself is gone.
        terminal.note("")
        return None


class _Pasted:
    """Takes lines that already wait when the first one is read for one paste."""

    def __init__(self, read: Callable[[str], str]):
        self._read = read
        self._ended = False

    def read(self, prompt: str) -> str | None:
        if self._ended:
            return None
        text = _guarded(self._read, prompt)
        while text is not None and _more_waits():
            try:
                text += "\n" + self._read("")
            except KeyboardInterrupt:
                terminal.note("")
                return ""
            except (EOFError, OSError):
                # What came before is answered first.
                self._ended = True
                break
        return text


def _more_waits() -> bool:
    """Whether a line waits, or the beginning of one."""
    try:
        if select.select([sys.stdin], [], [], PASTE_GAP)[0]:
            return True
        # A terminal keeps a line to itself until its end, unless it is told not to.
        terminal_modes = termios.tcgetattr(sys.stdin)
        raw = [*terminal_modes[:3], terminal_modes[3] & ~termios.ICANON]
        try:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, raw + terminal_modes[4:])
            return bool(select.select([sys.stdin], [], [], 0)[0])
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, terminal_modes)
    except (OSError, ValueError, termios.error):
        return False


def _completion(text: str, state: int, commands: Sequence[str]) -> str | None:
    if readline is None:
        return None
    # readline counts bytes.
    line = os.fsencode(readline.get_line_buffer())[: readline.get_endidx()]
    found = completion.missing(os.fsdecode(line), commands)
    # Python tells readline to add nothing behind a completion.
    return text + found[state] if state < len(found) else None
