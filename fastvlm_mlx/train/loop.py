"""Loop: steps and measurements, until the epochs are done or nothing gets better.

What comes next is decided by the state alone: a step, or the measurement that an epoch
ends with. So a run that was killed goes on from its last state as if nothing had been.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import TrainingError
from fastvlm_mlx.train.data.batches import Batch, Features, batch_count, make_batches
from fastvlm_mlx.train.data.rows import Row
from fastvlm_mlx.train.distributed import Processes
from fastvlm_mlx.train.events import EpochEnded, Event, Started, Stepped
from fastvlm_mlx.train.interrupt import Interrupt
from fastvlm_mlx.train.learner import Arrays, Learner, number
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.schedule import Schedule
from fastvlm_mlx.train.state import Facts, State, StateFiles

# A step takes so many times as long as a measurement of the same rows: forwards once,
# backwards twice.
_STEP_COST = 3


@dataclass(frozen=True)
class TrainingSet:
    """What a run learns from and is measured with.

    Attributes:
        rows: to learn from.
        held_out: to measure with; may be empty.
        features: of the images of both.
    """

    rows: Sequence[Row]
    held_out: Sequence[Row]
    features: Features


@dataclass
class Loop:
    """One run. `files` is None where nothing is kept, as in all but one process."""

    learner: Learner
    data: TrainingSet
    options: TrainOptions
    processes: Processes
    files: StateFiles | None
    interrupt: Interrupt
    on_event: Callable[[Event], None]
    best: Arrays | None = None
    # What all processes agreed on: each may notice a Ctrl-C in another step.
    _stopping: bool = False
    _batches: tuple[int, Iterator[Batch]] | None = None
    _step_seconds: list[float] = field(default_factory=list)
    _held_out_seconds: float = 0.0

    def __post_init__(self) -> None:
        passes = batch_count(self.data.rows, self.options.batch)
        self.epoch_steps = -(-passes // self.options.accumulate)
        self.steps = self.epoch_steps * self.options.epochs
        self.schedule = Schedule(self.steps, self.options.warmup)

    def run(self, state: State) -> State:
        """The state at the end: `is_over`, or interrupted.

        Raises:
            TrainingError: a loss is no number; the state before it is `self.last`.
            OptionError: a file cannot be written.
        """
        self.last = state
        if state.facts.held_out_losses:
            self._report_start(state.facts)
        while not self.is_over(self.last.facts):
            facts = self.last.facts
            if facts.step // self.epoch_steps >= len(facts.held_out_losses):
                following = self._measured(self.last)
            else:
                following = self._stepped(self.last)
            self.last = following or self.last
            if self._stopping:
                self._save(self.last)
                break
        return self.last

    def is_over(self, facts: Facts) -> bool:
        """Whether all epochs are done, or the last ones brought nothing."""
        epoch = len(facts.held_out_losses) - 1
        waited = epoch - facts.best_epoch
        patience = self.options.patience
        return epoch >= self.options.epochs or bool(
            patience and facts.best_epoch and waited >= patience
        )

    def _stepped(self, state: State) -> State:
        begun, facts = time.monotonic(), state.facts
        epoch, at = divmod(facts.step, self.epoch_steps)
        sums, total = np.zeros(2), None
        for index, batch in enumerate(self._next(epoch, at)):
            key = self._key(facts.step, index)
            loss, gradients = self.learner.gradients(state.parameters, batch, key)
            sums += [loss, number(batch.weights.sum())]
            if total is not None:
                gradients = {n: total[n] + array for n, array in gradients.items()}
                mx.eval(gradients)
            total = gradients
        # A process without a batch of its own would still have to take part.
        assert total is not None
        (loss, tokens), total = self._shared(sums, total)
        factor = self.schedule.factor(facts.step)
        parameters, moments, norm = self.learner.update(
            state.parameters, state.moments, total, facts.step, factor
        )
        self._check(loss / tokens, norm, facts, factor)
        after = replace(
            facts,
            step=facts.step + 1,
            epoch_loss=facts.epoch_loss + loss,
            epoch_tokens=facts.epoch_tokens + tokens,
        )
        following = State(parameters, moments, after)
        # At the end of an epoch its measurement comes first.
        if after.step % self.options.save_every == 0 and after.step % self.epoch_steps:
            self._save(following)
        self._step_seconds.append(time.monotonic() - begun)
        self._report(
            Stepped(
                after.step,
                self.steps,
                epoch + 1,
                loss / tokens,
                self.learner.highest_rate * factor,
                norm,
                self._seconds_left(after),
                mx.get_peak_memory(),
            )
        )
        return following

    def _measured(self, state: State) -> State | None:
        """The state after measuring; None if that was interrupted."""
        facts = state.facts
        epoch = len(facts.held_out_losses)
        loss = self._held_out_loss(state.parameters)
        if self._stopping:
            return None
        if loss is not None and not math.isfinite(loss):
            raise self._diverged(f"held-out loss {loss} after epoch {epoch}", facts)
        earlier = facts.held_out_losses[facts.best_epoch] if facts.best_epoch else None
        is_best = epoch > 0 and (earlier is None or loss is None or loss < earlier)
        after = replace(
            facts,
            held_out_losses=(*facts.held_out_losses, loss),
            best_epoch=epoch if is_best else facts.best_epoch,
        )
        mean = facts.epoch_loss / max(facts.epoch_tokens, 1)
        if epoch:
            after = replace(
                after,
                epoch_loss=0.0,
                epoch_tokens=0.0,
                train_losses=(*facts.train_losses, mean),
            )
        following = replace(state, facts=after)
        if is_best:
            self.best = state.parameters
            if self.files is not None:
                self.files.write_best(state.parameters)
        self._save(following)
        if epoch:
            epochs = self.options.epochs
            self._report(EpochEnded(epoch, epochs, facts.step, mean, loss, is_best))
        else:
            self._report_start(after)
        return following

    def _held_out_loss(self, parameters: Arrays) -> float | None:
        begun, sums = time.monotonic(), np.zeros(2)
        if not self.data.held_out:
            return None
        for batch in self._made(self.data.held_out, epoch=0, start=0):
            if self.interrupt.wanted:
                break
            loss = self.learner.loss(parameters, batch)
            sums += [loss, number(batch.weights.sum())]
        (loss, tokens), _ = self._shared(sums, {})
        self._held_out_seconds = time.monotonic() - begun
        return loss / tokens

    def _next(self, epoch: int, step: int) -> list[Batch]:
        """The batches of the epoch's step `step`."""
        count = self.options.accumulate
        if self._batches is None or self._batches[0] != epoch:
            made = self._made(self.data.rows, epoch, step * count)
            self._batches = epoch, made
        return list(islice(self._batches[1], count))

    def _made(self, rows: Sequence[Row], epoch: int, start: int) -> Iterator[Batch]:
        return make_batches(
            rows,
            self.data.features,
            self.options.batch,
            seed=self.options.seed,
            epoch=epoch,
            start=start,
            rank=self.processes.rank,
            ranks=self.processes.count,
        )

    def _key(self, step: int, index: int) -> mx.array:
        seeds = [self.options.seed, step, index, self.processes.rank]
        return mx.array(np.random.SeedSequence(seeds).generate_state(2))

    def _shared(
        self, sums: np.ndarray, gradients: Arrays
    ) -> tuple[tuple[float, float], Arrays]:
        """The sum of losses and of tokens in all processes, and the gradients of the
        mean loss."""
        flagged = mx.array([*sums, self.interrupt.wanted], mx.float32)
        shared, *summed = self.processes.mean([flagged, *gradients.values()])
        loss, tokens, stop = np.asarray(shared).tolist()
        self._stopping = stop > 0
        # Interrupted before the first batch there are none.
        tokens = tokens or 1.0
        count = self.processes.count
        mean = {
            name: array / tokens for name, array in zip(gradients, summed, strict=True)
        }
        return (loss * count, tokens * count), mean

    def _check(self, loss: float, norm: float, facts: Facts, factor: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            rate = self.learner.highest_rate * factor
            what = (
                f"loss {loss}, gradients of norm {norm} at a learning rate {rate:.2g}"
            )
            raise self._diverged(f"{what}, step {facts.step + 1}", facts)

    def _diverged(self, what: str, facts: Facts) -> TrainingError:
        kept = (
            f"epoch {facts.best_epoch}, the best so far, is kept"
            if facts.best_epoch
            else "no epoch was finished"
        )
        return TrainingError(f"{what}: {kept}; train with a lower learning rate")

    def _save(self, state: State) -> None:
        if self.files is not None:
            self.files.write(state)

    def _report_start(self, facts: Facts) -> None:
        seconds = self._seconds_left(facts) if self._held_out_seconds else None
        self._report(
            Started(
                facts.step,
                self.steps,
                self.options.epochs,
                sum(array.size for array in self.learner.start.values()),
                facts.held_out_losses[0],
                seconds,
            )
        )

    def _report(self, event: Event) -> None:
        if self.files is not None:
            self.files.log({"event": type(event).__name__, **asdict(event)})
        if self.processes.rank == 0:
            self.on_event(event)

    def _seconds_left(self, facts: Facts) -> float:
        held_out = len(self.data.held_out)
        if self._step_seconds:
            # The first one may have compiled.
            recent = self._step_seconds[1:] or self._step_seconds
            step = sum(recent) / len(recent)
        else:
            share = len(self.data.rows) / max(held_out, 1) / self.epoch_steps
            step = self._held_out_seconds * share * _STEP_COST
        epochs = self.options.epochs + 1 - len(facts.held_out_losses)
        return step * (self.steps - facts.step) + self._held_out_seconds * epochs
