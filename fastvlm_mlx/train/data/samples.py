"""Sample: images, and the questions and answers about them."""

from dataclasses import dataclass
from pathlib import Path

# What `open_image` opens: a file, an http(s) address, or the bytes of an image file.
Image = Path | str | bytes


@dataclass(frozen=True)
class Sample:
    """One conversation to learn from.

    Attributes:
        images: in the order in which they are shown.
        turns: (question, answer) pairs, at least one; no answer is empty.
        system: the system prompt; None is the model's own, "" is none.
        origin: where it stands, "file:line", or the name of its image.
        images_by_turn: how many images join each question, one number a turn; () lets
            all join the first.
    """

    images: tuple[Image, ...]
    turns: tuple[tuple[str, str], ...]
    system: str | None = None
    origin: str = ""
    images_by_turn: tuple[int, ...] = ()

    def joining(self) -> tuple[int, ...]:
        """How many images join each question, whichever way it was given."""
        return self.images_by_turn or (
            len(self.images),
            *(0 for _ in self.turns[1:]),
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers alone, in order."""
        return tuple(answer for _, answer in self.turns)
