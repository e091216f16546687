"""A conversation in a terminal: questions, and commands that start with a slash.

The answer goes to stdout; the prompt is readline's, the rest goes to stderr.
"""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat import line_editor, stats
from fastvlm_mlx.errors import ContextError, OptionError
from fastvlm_mlx.generation import constrained

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.generation.sampling import Sampling
    from fastvlm_mlx.generation.stream import Chunk

WELCOME = """\
Chatting with {model}
Ask a question, or type '/image PATH' to add an image
Type '/help' for the other commands
Ctrl-C ends an answer, Ctrl-D or '/quit' leaves"""

HELP = """\
/image PATH...  add images; a path alone does the same
/reset          start over, with the images of the start
/stats          times, tokens and memory of the last answer
/save FILE      write the conversation as JSON
/load FILE      go on with a saved conversation
/quit           leave"""


class Repl:
    """Reads lines, answers questions, runs commands; an error does not end it."""

    def __init__(
        self,
        conversation: "Conversation",
        model: str,
        sampling: "Sampling",
        *,
        show_stats: bool = False,
        schema: Any = None,
    ):
        self.conversation = conversation
        self.model = model
        self.sampling = sampling
        self.show_stats = show_stats
        self.schema = schema
        self.last: Chunk | None = None
        self.leaving = False
        # Only files of this conversation are overwritten: /save cat.png must not be.
        self.own_files: set[Path] = set()
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.add_images,
            "/reset": self.reset,
            "/stats": self.show,
            "/save": self.save,
            "/load": self.load,
            "/help": lambda rest: terminal.note(HELP),
            "/quit": self.leave,
            "/exit": self.leave,
        }

    def run(self, history: Path) -> None:
        """Talk until Ctrl-D or /quit; `history` is the file of earlier lines."""
        terminal.note(WELCOME.format(model=self.model))
        with line_editor.ready(history, sorted(self.commands)):
            while not self.leaving and (line := line_editor.read("> ")) is not None:
                try:
                    self.obey(line)
                except KeyboardInterrupt:
                    terminal.note("")
                except BrokenPipeError:
                    raise  # Nobody reads any more.
                except Exception as error:
                    # The session outlives what goes wrong in it, as a shell does.
                    report(error)

    def obey(self, line: str) -> None:
        """Do what one line says."""
        line = line.strip()
        command, _, rest = line.partition(" ")
        if command in self.commands:
            self.commands[command](rest.strip())
        elif is_dropped(line):
            self.add_images(line)
        elif command.startswith("/"):
            terminal.note(f"unknown command '{command}'; /help lists them")
        elif line:
            self.ask(line)

    def ask(self, question: str) -> None:
        """Streams one answer; Ctrl-C ends it and keeps what was shown."""
        last = None
        with terminal.deferred_interrupt() as cancel:
            for last in self.conversation.answer(
                question,
                (),
                self.sampling,
                cancel=cancel,
                detailed=self.show_stats,
                constraint=constrained.json_constraint(
                    self.conversation.model, self.schema
                ),
            ):
                terminal.emit(last.text)
        terminal.emit("\n")
        self.last = last or self.last
        if self.show_stats:
            self.show()

    def add_images(self, rest: str) -> None:
        """`/image PATH...`: the images join the next question."""
        if not rest:
            raise OptionError("/image needs a path; for example /image photo.jpg")
        for name in words(rest):
            self.conversation.add(name)
            terminal.note(f"added {name}")

    def reset(self, rest: str = "") -> None:
        """`/reset`: forget all turns."""
        self.conversation.reset()
        self.last = None
        terminal.note("started over, with the images of the start")

    def show(self, rest: str = "") -> None:
        """`/stats`: the numbers of the last answer."""
        if self.last is None:
            terminal.note("no answer yet")
            return
        used, size = self.conversation.context_used, self.conversation.context_size
        shown = [*stats.lines(self.last), f"context: {used} of {size} tokens"]
        terminal.note("\n".join(shown))

    def save(self, rest: str) -> None:
        """`/save FILE`: the conversation as JSON."""
        path = one_file("/save", rest)
        if path.exists() and path.resolve() not in self.own_files:
            raise OptionError(f"{path} exists; choose another name or remove it first")
        self.conversation.save(path)
        self.own_files.add(path.resolve())
        terminal.note(f"saved {path}")

    def load(self, rest: str) -> None:
        """`/load FILE`: go on with a saved conversation."""
        path = one_file("/load", rest)
        load = type(self.conversation).load
        self.conversation = load(self.conversation.model, path)
        self.own_files.add(path.resolve())
        self.last = None
        terminal.note(f"loaded {path}")

    def leave(self, rest: str = "") -> None:
        """`/quit`: end the session."""
        self.leaving = True


def words(text: str) -> list[str]:
    r"""The file names in a line, as typed or dragged into a terminal.

    `a.png b.png` are two, `'a b.png'`, `a\ b.png` and an existing `a b.png` are one.
    A leading ~ is the home folder.
    """
    if is_file(text):
        return [text]
    try:
        names = shlex.split(text)
    except ValueError:
        # An apostrophe in a name is no quotation: /image Anna's cat.png
        names = [text]
    return [str(Path(name).expanduser()) if name[:1] == "~" else name for name in names]


def is_file(name: str) -> bool:
    """Whether this names a file; whatever was typed, this never raises."""
    try:
        return Path(name).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def is_dropped(line: str) -> bool:
    """Whether a line is what dragging files into a terminal leaves: whole paths."""
    names = words(line)
    return bool(names) and all(os.path.isabs(n) and is_file(n) for n in names)


def one_file(command: str, rest: str) -> Path:
    """The path after a command that takes exactly one."""
    names = words(rest)
    if len(names) != 1:
        raise OptionError(f"{command} takes one file, got {len(names)}")
    return Path(names[0]).expanduser()


def report(error: Exception):
    """Print what went wrong, with the way out that only a session has."""
    if isinstance(error, ContextError):
        error = ContextError(f"{error}; /reset starts over")
    terminal.report(error)
