"""What `train` reports while it runs, for a progress bar or a log."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Before the first step, once the model has been measured on held-out samples.

    Attributes:
        step, steps: done before (not 0 for a resumed run), and in all.
        epochs: at most.
        parameters: numbers that learn.
        held_out_loss: before any training; None without held-out samples.
        seconds: that the run will take, estimated; None where nothing was measured.
    """

    step: int
    steps: int
    epochs: int
    parameters: int
    held_out_loss: float | None
    seconds: float | None


@dataclass(frozen=True)
class Stepped:
    """After a step.

    Attributes:
        step, steps: done, and in all.
        epoch: that it belongs to, from 1.
        loss: mean of the answers' tokens of the step, in nats.
        learning_rate: the language model's, or the connector's where it learns alone.
        gradient_norm: before clipping.
        seconds_left: of the whole run, estimated.
        peak_bytes: of memory that MLX has used so far.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds_left: float
    peak_bytes: int


@dataclass(frozen=True)
class EpochEnded:
    """After an epoch and its measurement on the held-out samples.

    Attributes:
        epoch, epochs: that ended, from 1, and at most.
        step: steps done.
        loss: mean of the epoch's steps.
        held_out_loss: None without held-out samples.
        is_best: whether it is the lowest so far.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    held_out_loss: float | None
    is_best: bool


Event = Started | Stepped | EpochEnded
