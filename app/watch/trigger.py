"""`--when`: is a sentence true of the image, and is that news?"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvlm_mlx.app.session import UsageError

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.choose import Choice

# A model may answer in either spelling; both count.
ANSWERS = ("Yes", "No", "yes", "no")
THRESHOLD, HYSTERESIS = 0.6, 0.2


def question_of(condition: str) -> str:
    """What the model is asked: a question itself, of a sentence whether it is true."""
    text = condition.strip()
    if text.endswith("?"):
        return text
    return f"Is this true of the image: {text.rstrip('.')}? Answer Yes or No."


def probability(found: "Choice") -> float:
    """The probability of yes, against no, of a choice among `ANSWERS`."""
    yes = sum(found.probabilities[at] for at in (0, 2))
    return yes / sum(found.probabilities)


@dataclass
class Trigger:
    """Fires when a probability passes `threshold`, and again only after it fell.

    It must fall below `release` first, so that a value which trembles around the
    threshold fires once.

    Raises:
        UsageError: they are no probabilities, or `release` is above `threshold`.
    """

    threshold: float = THRESHOLD
    release: float | None = None
    active: bool = False

    def __post_init__(self):
        if not 0 < self.threshold < 1:
            raise UsageError(
                f"--threshold {self.threshold:g}: give a probability such as 0.6"
            )
        if self.release is None:
            self.release = max(0.0, self.threshold - HYSTERESIS)
        if not 0 <= self.release <= self.threshold:
            raise UsageError(
                f"--release {self.release:g}: give a probability up to --threshold,"
                f" {self.threshold:g}"
            )

    def update(self, value: float) -> bool:
        """Takes the next probability; whether that fires."""
        assert self.release is not None
        if math.isnan(value):
            return False
        fires = value >= self.threshold and not self.active
        if fires:
            self.active = True
        elif value < self.release:
            self.active = False
        return fires
