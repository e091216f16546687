"""One answer about a whole video, over few frames labelled with their times."""

from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.chat.stats import EMPTY_ANSWER
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.generation.constrained import json_constraint
from fastvlm_mlx.processing.video import Frame

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.generation.sampling import Sampling

MOST = 8  # frames; FastVLM was not trained on more images at a time


def label(time: float) -> str:
    """What stands before a frame in the prompt."""
    return f"frame at {time:.1f} s:"


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
