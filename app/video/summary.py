"""Sums a video up, by text alone: from the lines that describe its scenes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastvlm_mlx.app.video.records import Record
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.errors import ContextError

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM
    from fastvlm_mlx.generation.sampling import Sampling

PROMPT = (
    "These lines describe the scenes of a video, each with the time of its beginning."
    "\n\n{}\n\nSummarize the video in a few sentences."
)
# Of the context: for the lines, beside the prompt and the answer.
_SHARE = 0.6


def summarize(
    model: "FastVLM",
    records: Sequence[Record],
    sampling: "Sampling",
    system: str | None = None,
) -> str:
    """A summary of what was described; "" if nothing was.

    Lines that do not fit into the context at once are summed up in parts first.

    Raises:
        ContextError: a single line does not fit.
    """
    lines = [
        f"{clock(record.time)} {' '.join(record.text().split())}"
        for record in records
        if record.error is None
    ]
    room = int(model.config.context_size * _SHARE) - min(
        sampling.max_tokens, model.config.context_size // 4
    )
    while lines:
        parts = _parts(model, lines, max(room, 1))
        answers = []
        for part in parts:
            chat = model.conversation(system=system)
            chunks = chat.answer(PROMPT.format("\n".join(part)), [], sampling)
            answers.append("".join(chunk.text for chunk in chunks).strip())
        if len(answers) == 1:
            return answers[0]
        if len(answers) >= len(lines):
            raise ContextError(
                f"a summary of {len(lines)} lines does not fit into"
                f" {model.config.context_size} tokens of context; use fewer --frames"
            )
        # Each part keeps the time at which it begins.
        starts = [part[0].split(" ", 1)[0] for part in parts]
        lines = [
            f"{start} {' '.join(text.split())}"
            for start, text in zip(starts, answers, strict=True)
        ]
    return ""


def _parts(model: "FastVLM", lines: list[str], room: int) -> list[list[str]]:
    """The lines in order, in parts of at most `room` tokens."""
    parts: list[list[str]] = [[]]
    used = 0
    for line in lines:
        size = len(model.tokenizer.encode(line)) + 1
        if parts[-1] and used + size > room:
            parts.append([])
            used = 0
        parts[-1].append(line)
        used += size
    return parts
