"""The learning rate of each step: a linear warm-up, then half a cosine down to 0."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Factors of the highest learning rate.

    The first step already learns: of w steps of warm-up it has 1 / w of the rate.
    """

    steps: int
    warmup: float = 0.03

    @property
    def warmup_steps(self) -> int:
        """Steps in which the rate rises, rounded up."""
        # Products like 0.03 * 100 lie just above a whole number.
        return math.ceil(round(self.warmup * self.steps, 9))

    def factor(self, step: int) -> float:
        """Of step `step`, counted from 0: in 0..1."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        falling = self.steps - self.warmup_steps
        done = min((step - self.warmup_steps) / max(falling, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * done))
