"""A conversation in a terminal: questions, and commands that start with a slash.

The answer goes to stdout; the prompt is readline's, the rest goes to stderr.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat import line_editor, line_images, pages, stats
from fastvlm_mlx.errors import ContextError, OptionError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.generation import constrained
from fastvlm_mlx.processing import pdf

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
/image PATH...  add images; a path alone, or before a question, does the same
/reset          start over, with the images of the start
/stats          times, tokens and memory of the last answer
/save FILE      write the conversation as JSON
/load FILE      go on with a saved conversation
/quit           leave"""

# What people type to leave other programs.
LEAVING = ("exit", "quit", "exit()", "quit()", ":q")


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
        }
        # What other programs taught people to type; Tab and /help leave them out.
        self.synonyms = {
            **dict.fromkeys(("/exit", "/q", "/bye"), self.leave),
            **dict.fromkeys(("/?", "/h"), self.commands["/help"]),
        }

    def run(self, history: Path) -> None:
        """Talk until Ctrl-D or /quit; `history` is the file of earlier lines."""
        terminal.note(WELCOME.format(model=self.model))
        with line_editor.ready(history, sorted(self.commands)) as read:
            while not self.leaving and (text := read("> ")) is not None:
                try:
                    self.obey(text)
                except KeyboardInterrupt:
                    terminal.note("")
                except BrokenPipeError:
                    raise  # Nobody reads any more.
                except Exception as error:
                    # The session outlives what goes wrong in it, as a shell does.
                    report(error)

    def obey(self, text: str) -> None:
        """Do what one line says, or several that were pasted at once.

        Their commands are obeyed; what stands between two of them is one question.
        """
        if text.strip().lower() in LEAVING:
            self.leave()
            return
        question: list[str] = []
        for line in re.split(r"\r\n?|\n", text):
            name = line.split(maxsplit=1)[0] if line.strip() else ""
            command = self.commands.get(name) or self.synonyms.get(name)
            if command is None:
                question.append(line)
                continue
            self.obey_question("\n".join(question))
            question = []
            command(line.strip()[len(name) :].strip())
            if self.leaving:
                return
        self.obey_question("\n".join(question))

    def obey_question(self, text: str) -> None:
        """Adds the images that `text` names, and asks what is left of it."""
        text = text.strip()
        if not text:
            return
        images, question = line_images.images_and_question(text)
        if not images and text[0] == "/":
            first = line_images.first_word(text)
            if not line_images.is_path(first):
                terminal.note(f"unknown command '{first}'; /help lists them")
                return
            images, question = [first], ""  # The error of opening it says what it is.
        elif line_images.are_images(question):
            images, question = images + line_images.names(question), ""
        for image in images:
            self.add_image(image)
        if question:
            self.ask(question)

    def ask(self, question: str) -> None:
        """Streams one answer; Ctrl-C ends it and keeps what was shown."""
        last, said = None, ""
        # Bytes that are no UTF-8 were kept for the sake of paths.
        question = re.sub("[\ud800-\udfff]", "\ufffd", question)
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
                said += last.text
        terminal.emit("\n")
        if not said.strip() and not cancel.is_set():
            terminal.note(stats.EMPTY_ANSWER)
        self.last = last or self.last
        if self.show_stats:
            self.show()

    def add_image(self, name: str) -> None:
        """The image joins the next question."""
        self.conversation.add(name)
        count = 1 if pdf.split_page(name)[1] else pages.count_of(name) or 1
        shown = f", page 1 of {count}; {name}#page=2 is the next" if count > 1 else ""
        terminal.note(f"added {name}{shown}")

    def add_images(self, rest: str) -> None:
        """`/image PATH...`: the images join the next question, which may follow."""
        if not rest:
            raise OptionError("/image needs a path; for example /image photo.jpg")
        images, question = line_images.images_and_question(rest)
        if not images or (question and line_images.is_path(question)):
            images, question = line_images.names(rest), ""
        for image in images:
            self.add_image(image)
        if question:
            self.ask(question)

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
        # Not `path.exists()`, which raises for a name that is too long.
        if os.path.exists(path) and path.resolve() not in self.own_files:
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


def one_file(command: str, rest: str) -> Path:
    """The path after a command that takes exactly one; its spaces need no quotes."""
    if not rest:
        raise OptionError(f"{command} takes one file; for example {command} talk.json")
    names = line_images.names(rest)
    name = names[0] if len(names) == 1 else rest
    if name.endswith("/"):  # which a Path would forget
        raise OptionError(
            f"{name}: names a folder; {command} takes a file, such as {name}talk.json"
        )
    return expand_user(name)


def report(error: Exception):
    """Print what went wrong, with the way out that only a session has."""
    if isinstance(error, ContextError):
        error = ContextError(f"{error}; /reset starts over")
    terminal.report(error)
