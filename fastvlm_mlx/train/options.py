"""What a training run is told: the method, its sizes and its rates."""

import math
from dataclasses import dataclass
from typing import Any, Self

from fastvlm_mlx.errors import OptionError

METHODS = ("lora", "dora", "full", "projector")

# The stages of the FastVLM paper that a user's data allow: the connector alone, then
# everything but the encoder.
STAGES: dict[int, dict[str, Any]] = {
    1: {"method": "projector", "projector": True, "projector_lr": 1e-3},
    2: {"method": "full", "projector": True, "lr": 2e-5, "projector_lr": 2e-5},
}


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`. The defaults suit some hundred images.

    Args:
        method: `lora` or `dora` adds small matrices to the linear layers of the
            language model, `full` changes all its weights, `projector` none of them.
        rank: columns of each small matrix.
        scale: factor of their product, PEFT's alpha / rank.
        dropout: share of a layer's inputs that the small matrices do not see.
        num_layers: the last layers of the language model that learn; -1 is all.
        projector: whether the connector learns as well.
        lr, projector_lr: highest learning rates, of the language model and of the
            connector.
        epochs: times that every sample is seen, at most.
        batch: samples in one pass, of all processes together.
        accumulate: passes before the weights change.
        warmup: share of the steps in which the learning rate rises; it then falls to
            0 as a cosine.
        clip: largest norm of all gradients together; 0 is none.
        weight_decay: AdamW's.
        checkpoint: computes each layer again for its gradients, which takes a third
            longer and less memory.
        seed: of the order of the samples, the first weights and the dropout.
        patience: ends the run after so many epochs without a lower held-out loss; 0
            never does.
        save_every: steps between two saves of the state; each epoch ends with one.
    Raises:
        OptionError: a value is out of its range.
    """

    method: str = "lora"
    rank: int = 16
    scale: float = 2.0
    dropout: float = 0.0
    num_layers: int = -1
    projector: bool = False
    lr: float = 2e-4
    projector_lr: float = 2e-5
    epochs: int = 3
    batch: int = 4
    accumulate: int = 1
    warmup: float = 0.03
    clip: float = 1.0
    weight_decay: float = 0.0
    checkpoint: bool = False
    seed: int = 0
    patience: int = 2
    save_every: int = 50

    @classmethod
    def stage(cls, number: int, **changes: Any) -> Self:
        """The paper's stage 1 (the connector alone, rate 1e-3) or 2 (all but the
        encoder, 2e-5), with `changes`.

        Raises:
            OptionError: no such stage, or a value out of its range.
        """
        if number not in STAGES:
            raise OptionError(f"stage {number}: unknown; use 1 or 2")
        return cls(**(STAGES[number] | changes))

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(
                f"method {self.method!r}: unknown; use {', '.join(METHODS)}"
            )
        if self.method == "projector":
            object.__setattr__(self, "projector", True)
        for name in ("rank", "epochs", "batch", "accumulate", "save_every"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("lr", "projector_lr", "scale"):
            self._check(name, getattr(self, name) > 0, "more than 0")
        for name in ("clip", "weight_decay", "patience", "seed"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("dropout", "warmup"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        fits = self.num_layers == -1 or self.num_layers >= 1
        self._check("num_layers", fits, "1 or more, or -1 for all")

    def _check(self, name: str, fits: bool, wanted: str) -> None:
        value = getattr(self, name)
        if not (fits and math.isfinite(value)):
            raise OptionError(f"{name} {value}: give {wanted}")
