"""Sample: images, and the questions and answers about them."""

from dataclasses import dataclass

from fastvlm_mlx.data.image_reference import Image
from fastvlm_mlx.errors import DataError


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
    Raises:
        DataError: there are no turns, or other images than join them.
    """

    images: tuple[Image, ...]
    turns: tuple[tuple[str, str], ...]
    system: str | None = None
    origin: str = ""
    images_by_turn: tuple[int, ...] = ()

    def __post_init__(self):
        name = self.origin or "a sample"
        if not self.turns:
            raise DataError(f"{name}: has no turns; give a question and its answer")
        joining = self.joining()
        whole = sum(joining) == len(self.images) and min(joining) >= 0
        if len(joining) != len(self.turns) or not whole:
            raise DataError(
                f"{name}: images_by_turn {self.images_by_turn} for {len(self.turns)}"
                f" turns and {len(self.images)} images; give a number for each turn"
            )

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
