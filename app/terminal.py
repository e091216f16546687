"""What the commands share about the terminal: streams, error lines, Ctrl-C.

The answer goes to stdout and everything else to stderr. An error is one line
that starts with "error:"; the traceback behind it is shown when the variable
FASTVLM_DEBUG is set.
"""

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any, Protocol

from fastvlm_mlx.errors import FastVLMError, quoted
from fastvlm_mlx.files import installation

CANCELLED = 130
# Control characters that text may hold; the others could drive the terminal.
PLAIN = "\n\t"


def note(text: str) -> None:
    """Print one line for the person, never for the program behind a pipe.

    Nobody may listen: then it is left out, and what was asked for is done all the same.
    """
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """Print a piece of an answer on stdout, at once."""
    print(printable(text), end="", flush=True)


def json_text(value: Any) -> str:
    """`value` as one line of JSON that keeps every character on this stdout.

    What its encoding cannot hold, and file names that are no UTF-8, are escaped.
    """
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        return text
    except UnicodeEncodeError:
        return json.dumps(value)


def check_stdout() -> None:
    """Refuses to work for an output that does not exist.

    Raises:
        FastVLMError: standard output is closed.
    """
    # cli.main() opens the null device in its place, by its number.
    if sys.stdout is None or getattr(sys.stdout, "name", "") == 1:
        raise FastVLMError(
            "standard output is closed; open it, or send it to a file with > FILE"
        )


def printable(text: str) -> str:
    """Text without the control characters that an image could talk a model into.

    Only a terminal obeys them: into a pipe or a file the text goes unchanged.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c in PLAIN or not _is_control(c))


def _is_control(char: str) -> bool:
    return ord(char) < 32 or 127 <= ord(char) < 160


def forgive_encodings() -> None:
    """Let a terminal that is not UTF-8 show "?" instead of ending the answer."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def report(error: BaseException) -> int:
    """Print what went wrong as one line and return the exit code."""
    if os.environ.get("FASTVLM_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return CANCELLED
    if isinstance(error, BrokenPipeError):
        return 1  # Whoever read the output has enough.
    note(f"error: {describe(error)}")
    return int(getattr(error, "exit_code", 1))


def describe(error: BaseException) -> str:
    """The error as one line: the thing, its value, the way out."""
    if isinstance(error, FastVLMError):
        text = str(error)
    elif hasattr(error, "format_message"):
        text = _usage(error)
    elif _is_out_of_memory(error):
        text = (
            "out of memory; close other programs, or use a smaller or quantized "
            "model, a lower --resolution or fewer tiles"
        )
    elif isinstance(error, OSError):
        text = _system(error)
    elif isinstance(error, ImportError) and "libmlx.so" in str(error):
        text = (
            "this MLX has no backend, which on Linux is a package of its own;"
            f" {installation.pip_install('mlx[cpu]')}, or mlx[cuda13] for an NVIDIA GPU"
        )
    elif isinstance(error, ImportError):
        text = (
            f"cannot import {error.name or 'a module'}: {quoted(error)};"
            " reinstall with pip"
        )
    else:
        kind = type(error).__name__
        text = (
            f"unexpected {kind}: {quoted(error)} (FASTVLM_DEBUG=1 shows the traceback)"
        )
    return " ".join(text.split())


def _usage(error: BaseException) -> str:
    # Newer typers bundle click and hide its classes, older ones need the real one:
    # what its errors have in common is format_message and, mostly, a context.
    text = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    problems = getattr(error.__cause__, "errors", None)
    if problems is not None:
        text = f"{text.split(':')[0]}: {_mismatch(problems()[0])}"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "fastvlm-mlx"
    return f"{text[:1].lower()}{text[1:].rstrip('.')} (see {command} -h)"


def _mismatch(problem: Mapping[str, Any]) -> str:
    # typer passes pydantic's wording on, which does not name what was typed.
    words = problem["msg"].removeprefix("Value error, ")
    rule = words.removeprefix("Input ").split(", unable")[0]
    return rule if rule == words else f"{problem['input']!r:.200} {rule}"


def _is_out_of_memory(error: BaseException) -> bool:
    # MLX reports a failed allocation as RuntimeError, worded by its backend.
    words = ("allocat", "insufficient memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    )


def _system(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.ENOSPC:
        reason += "; free some space or choose another disk"
    return f"{error.filename}: {reason}" if error.filename else reason


def flush() -> int:
    """Write what is left in stdout; the exit code, so that its end is as quiet as its
    middle if the reader has left."""
    stdout = sys.stdout
    if stdout is None:
        return 0
    try:
        stdout.flush()
        return 0
    except (OSError, ValueError) as error:
        # Python would try again on its way out, and complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return report(error)


@contextmanager
def deferred_interrupt() -> Iterator[Event]:
    """Let Ctrl-C set an event, so that an answer ends between two tokens.

    A second press does not wait for that: it is a KeyboardInterrupt, as always.
    """
    pressed = Event()

    def press(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def format_rate(count: int, seconds: float, noun: str) -> str:
    """`2.5 images/s`, or `4.0 s/image` where that is slow."""
    if not count or count >= seconds:
        return f"{count / max(seconds, 1e-9):.1f} {noun}s/s"
    return f"{seconds / count:.1f} s/{noun}"


class Update(Protocol):
    """Shows progress: what is done, of how much, and a note such as a rate."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def progress(
    what: str, *, count: bool = False, visible: bool = True
) -> Iterator[Update]:
    """A bar on stderr, drawn on a terminal once there is progress, silent in a pipe.

    Args:
        what: the label.
        count: `done` and `total` are a number of things, shown with the time left;
            otherwise they are bytes.
        visible: False draws nothing.
    """
    if not visible or not sys.stderr.isatty():
        yield lambda done, total, note="": None
        return
    # 0.1 s to import, which most answers need not pay.
    from rich import progress as bars
    from rich.console import Console

    amount = (
        (
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[note]}"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("left"),
        )
        if count
        else (bars.DownloadColumn(),)
    )
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        *amount,
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=300,
    )
    task = bar.add_task(what, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
        bar.update(task, completed=done, total=total, note=note)
        bar.start()

    try:
        yield update
    finally:
        bar.stop()
