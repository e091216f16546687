"""`fastvlm-mlx chat`: prints one answer, or starts a conversation (`repl.py`)."""

import fcntl
import os
import stat
import struct
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat import choices, pages, stats
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.session import (
    ConversationOptions,
    UsageError,
    keep_features,
    open_model,
    tuned_name,
)
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.generation.constrained import json_constraint
from fastvlm_mlx.generation.json_schema import read_schema

if TYPE_CHECKING:
    from PIL.Image import Image

    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.generation.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """The command line of `chat`."""

    images: tuple[str, ...]
    prompt: str | None
    model: str | None
    options: ConversationOptions
    sampling: "Sampling"
    stats: bool
    as_json: bool
    encoder: str = "auto"
    compute_units: str | None = None
    schema: Path | None = None
    refresh: bool = False
    keep_features: int | None = None
    adapter: Path | None = None
    choices: str | None = None
    page: str | None = None
    clipboard: bool = False
    screen: bool = False
    captured: "tuple[tuple[str, Image], ...]" = ()

    @property
    def sources(self) -> "tuple[str | Image, ...]":
        """All images, in the order of `names`."""
        return *self.images, *(image for _, image in self.captured)

    @property
    def names(self) -> tuple[str, ...]:
        """What the images are called."""
        return *self.images, *(name for name, _ in self.captured)


def run(request: Request) -> None:
    """Answers the question, or runs a conversation until the user leaves."""
    terminal.check_stdout()
    given = None if request.choices is None else choices.read_choices(request.choices)
    if given is not None:
        choices.check_options(
            request.sampling, schema=request.schema is not None, stats=request.stats
        )
    numbers = () if request.page is None else pages.parse_pages(request.page)
    question = read_question(request)
    if given is not None and question is None:
        raise UsageError("--choices needs the one question to score; use -p PROMPT")
    check_images(request.images)
    request = replace(
        request,
        images=pages.choose_pages(request.images, numbers),
        captured=_captured(request),
    )
    schema = read_schema(request.schema) if request.schema else None
    may_use_coreml = packages.check(request.encoder, request.compute_units)
    name, model = open_model(
        request.model, refresh=request.refresh, adapter=request.adapter
    )
    if may_use_coreml and request.encoder == "auto":
        packages.use_only(model, name)
        once = question is not None
        packages.use_faster(model, name, request.options.resolution, once=once)
    elif may_use_coreml:
        packages.use(model, name, request.encoder, request.compute_units)
    keep_features(model, request.keep_features)
    if question is not None:
        if not request.sources:
            hint_at_images(name, question_is_piped=request.prompt is None)
        name = tuned_name(name, request.adapter)
        if given is not None:
            choices.answer(
                request.options.conversation(model),
                question,
                request.sources,
                given,
                name,
                names=request.names,
                as_json=request.as_json,
            )
            return
        answer(request.options.conversation(model), question, request, name, schema)
        return
    from fastvlm_mlx.app.chat.repl import Repl
    from fastvlm_mlx.files.cache_dir import cache_dir

    conversation = request.options.conversation(model, request.sources)
    name = tuned_name(name, request.adapter)
    repl = Repl(
        conversation, name, request.sampling, show_stats=request.stats, schema=schema
    )
    repl.run(cache_dir() / "history")


def read_question(request: Request) -> str | None:
    """The prompt from -p or the pipe; None if a conversation is to start.

    Raises:
        UsageError: there is no prompt and no terminal to type one on.
    """
    from_pipe = request.images.count("-")
    if from_pipe > 1:
        raise UsageError("'-' is named twice, but standard input holds one image")
    if request.prompt is not None:
        if not request.prompt.strip():
            raise UsageError("'-p' is empty; ask something, such as -p 'What is this?'")
        return request.prompt
    if from_pipe:
        raise UsageError(
            "standard input is the image ('-'), so the question needs -p PROMPT"
        )
    if sys.stdin is None or not sys.stdin.isatty():
        return _piped_question()
    if request.as_json or not sys.stdout.isatty():
        raise UsageError("no question; use -p PROMPT or pipe one into standard input")
    return None


def _piped_question() -> str:
    try:
        text = sys.stdin.buffer.read().decode() if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise UsageError(
            "standard input is not UTF-8 text; for an image use '-' and -p PROMPT"
        ) from None
    if not text.strip():
        raise UsageError("standard input is empty; pipe a question or use -p PROMPT")
    return text.strip()


def hint_at_images(model: str, *, question_is_piped: bool) -> None:
    """Says what was probably forgotten when a question comes without an image."""
    if not question_is_piped and _something_is_piped():
        terminal.note(
            "note: standard input is not read; name it as - if it is the image:"
            " fastvlm-mlx chat - -p PROMPT"
        )
    elif model.lower() == "demo":
        terminal.note(
            "note: no image; the demo model knows nothing but images:"
            " fastvlm-mlx chat IMAGE -p PROMPT"
        )


def _something_is_piped() -> bool:
    """Whether data waits in standard input; none of it is taken."""
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode):
            return os.fstat(number).st_size > os.lseek(number, 0, os.SEEK_CUR)
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return False
        # A pipe whose writer has left is readable too: count what is in it.
        waiting = fcntl.ioctl(number, termios.FIONREAD, struct.pack("i", 0))
        return struct.unpack("i", waiting)[0] > 0
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        return False


def _captured(request: Request) -> "tuple[tuple[str, Image], ...]":
    if not (request.clipboard or request.screen):
        return ()
    from fastvlm_mlx.app.chat import capture

    found = []
    if request.clipboard:
        found.append(("clipboard", capture.clipboard()))
    if request.screen:
        found.append(("screen", capture.screen()))
    return tuple(found)


def check_images(names: Sequence[str]) -> None:
    """Refuses files that cannot be read before a model is loaded or downloaded.

    Raises:
        ImageError: one of them cannot be an image.
    """
    from fastvlm_mlx.processing import pdf
    from fastvlm_mlx.processing.image_file import open_image

    for name in names:
        file = pdf.split_page(name)[0]
        if name != "-" and "://" not in name and not is_readable(file):
            open_image(file)  # Raises the error that says why.


def is_readable(name: str) -> bool:
    """Whether a path may be an image; a pipe (`<(...)`) may, and is not touched."""
    try:
        path = expand_user(name)
        return path.exists() and not path.is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def answer(
    conversation: "Conversation",
    question: str,
    request: Request,
    model: str,
    schema: Any = None,
) -> None:
    """Prints one answer as it comes, or at its end as one JSON object."""
    text = ""
    last = None
    try:
        for last in conversation.answer(
            question,
            request.sources,
            request.sampling,
            detailed=request.stats,
            constraint=json_constraint(conversation.model, schema),
        ):
            text += last.text
            if not request.as_json:
                terminal.emit(last.text)
    finally:
        if not request.as_json and text and not text.endswith("\n"):
            terminal.emit("\n")
    if not text.strip():
        terminal.note(stats.EMPTY_ANSWER)
    if last is None:
        return
    if request.as_json:
        record = {"model": model, "images": list(request.names), "prompt": question}
        record |= {"answer": text, **stats.record(last)}
        print(terminal.json_text(record))
    if request.stats:
        for line in stats.lines(last):
            terminal.note(line)
