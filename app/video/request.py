"""The command line of `video`, and what cannot be in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import session
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.processing.video.sampling import check as check_sampling

if TYPE_CHECKING:
    from fastvlm_mlx.generation.sampling import Sampling

PROMPT = "Describe the image."


@dataclass(frozen=True)
class Request:
    """The command line of `video`; times are in seconds.

    `every` and `count` choose frames; None of both are scenes. `ask` is a question
    about the whole. `out`, `form` are as for `open_output`.
    """

    file: str
    prompt: str | None
    ask: str | None
    summary: bool
    every: float | None
    count: int | None
    start: float
    end: float | None
    out: str | None
    form: str | None
    sheet: str | None
    overwrite: bool
    batch: int
    schema: Path | None
    model: str | None
    options: session.ConversationOptions
    sampling: "Sampling"
    refresh: bool = False
    adapter: Path | None = None

    @property
    def frames(self) -> str:
        """How frames are chosen."""
        if self.every is not None:
            return f"every {self.every:g} s"
        return "scenes" if self.count is None else f"{self.count} frames"


def check(request: Request) -> None:
    """Checks the options.

    Raises:
        UsageError: some cannot be, or cannot go together.
    """
    for option, text in (("-p", request.prompt), ("--ask", request.ask)):
        if text is not None and not text.strip():
            raise session.UsageError(f"{option!r} is empty; write a question behind it")
    if request.batch < 1:
        raise session.UsageError(f"--batch {request.batch}: must be at least 1")
    try:
        check_sampling(
            every=request.every,
            count=request.count,
            start=request.start,
            end=request.end,
        )
    except FastVLMError as error:
        words = str(error)
        for name, option in (
            ("every and count", "--every and --frames"),
            ("every ", "--every "),
            ("count ", "--frames "),
            ("start ", "--from "),
            ("end ", "--to "),
        ):
            if words.startswith(name):
                words = option + words.removeprefix(name)
                break
        raise session.UsageError(words) from None
    if request.ask is not None:
        others = {
            "-p": request.prompt,
            "--summary": request.summary or None,
            "-o": request.out,
            "--format": request.form,
        }
        for option, value in others.items():
            if value is not None:
                raise session.UsageError(
                    f"--ask gives one answer and no lines; leave out {option}"
                )
    on_stdout = request.out in (None, "-")
    if request.summary and on_stdout and request.form not in (None, "text"):
        raise session.UsageError(
            f"--summary with --format {request.form} needs -o FILE: the summary is"
            " printed"
        )
