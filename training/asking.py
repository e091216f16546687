"""How a question is put: its wording, its answer, and what it names."""

from dataclasses import dataclass

import numpy as np

from training.world import SIZE, Shape, Sign

# What is known of a name: whether it is there, and where, if there is just one.
Found = tuple[bool, tuple[float, float] | None]
NOTHING: dict[str, list[Found]] = {}


@dataclass(frozen=True)
class Mention:
    """What a question names: where its name ends in the question (in characters),
    whether it is there, and its place in 0..1 where there is just one of it."""

    end: int
    there: bool
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class Pair:
    """A question, its answer, the kind it counts under, and what it names."""

    kind: str
    question: str
    answer: str
    mentions: tuple[Mention, ...] = ()


def at(thing: Shape | Sign) -> list[Found]:
    """What is known of a name that stands for this thing alone."""
    return [(True, (thing.x / SIZE, thing.y / SIZE))]


def found(things: list[Shape]) -> list[Found]:
    """What is known of a name that fits these things, which may be none."""
    return at(things[0]) if len(things) == 1 else [(bool(things), None)]


class Asker:
    """Collects pairs about one scene; `rng` picks the wording."""

    def __init__(self, rng: np.random.Generator, held_out: bool):
        self.rng, self.held_out, self.pairs = rng, held_out, []

    def ask(
        self, kind: str, answer: str, *wordings: str, names: dict = NOTHING
    ) -> None:
        """Ask in one of the wordings. `names`: what the wordings name, and what is
        known of it, as a whole or character by character."""
        question = wordings[self.rng.integers(len(wordings))]
        if self.rng.random() < 0.5:
            question = question.replace("colour", "color")
        mentions = []
        for name, known in names.items():
            end = question.index(name) + len(name) - len(known)
            mentions += [Mention(end + i, *one) for i, one in enumerate(known, 1)]
        self.pairs.append(Pair(kind, question, answer, tuple(mentions)))

    def yes_no(self, truth: bool, *wordings: str, names: dict = NOTHING) -> None:
        self.ask("yes/no", "Yes" if truth else "No", *wordings, names=names)
