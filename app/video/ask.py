"""One answer about a whole video, over few frames labelled with their times."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat.stats import EMPTY_ANSWER
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.generation.constrained import json_constraint
from fastvlm_mlx.processing.video import Frame
from fastvlm_mlx.processing.video.sampling import spread

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.generation.sampling import Sampling

MOST = 8  # frames; FastVLM was not trained on more images at a time
_HELD = 2 * MOST


def label(time: float) -> str:
    """What stands before a frame in the prompt."""
    return f"frame at {time:.1f} s:"


def few(frames: Iterator[Frame], most: int = MOST) -> list[Frame]:
    """At most `most` frames, evenly chosen; a bounded number is held."""
    held: list[Frame] = []
    step = 1
    for at, frame in enumerate(frames):
        if at % step == 0:
            held.append(frame)
        if len(held) > _HELD:
            held, step = held[::2], step * 2
    return spread(held, most)


def answer(
    conversation: "Conversation",
    question: str,
    frames: list[Frame],
    sampling: "Sampling",
    schema: Any = None,
) -> None:
    """Prints the answer as it comes.

    Raises:
        ContextError: question and frames do not fit.
    """
    images: list[Attachment] = []
    for frame in frames:
        image = attach(conversation.model, frame.image, conversation.image_options)
        image.label = label(frame.time)
        images.append(image)
    times = ", ".join(clock(frame.time) for frame in frames)
    terminal.note(f"{len(frames)} frames: {times}")
    constraint = json_constraint(conversation.model, schema)
    text = ""
    try:
        for chunk in conversation.answer(
            question, images, sampling, constraint=constraint
        ):
            text += chunk.text
            terminal.emit(chunk.text)
    finally:
        if text and not text.endswith("\n"):
            terminal.emit("\n")
    if not text.strip():
        terminal.note(EMPTY_ANSWER)
