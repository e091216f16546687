"""Tells how a run goes on: a bar on a terminal, a line for each epoch everywhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.train.report import duration
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.train.events import EpochEnded, Event, Started, Stepped

SETTLED = 5  # steps after which the time left is worth telling


class Narrator:
    """Gets the events of a run, one after the other."""

    def __init__(self, update: terminal.Update):
        self._update = update
        self._steps = 0
        self.best: EpochEnded | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started(event)
        elif isinstance(event, Stepped):
            self._stepped(event)
        else:
            self._ended(event)

    def _started(self, event: Started) -> None:
        text = f"{_count(event.parameters)} parameters learn"
        if event.step:
            text += f"; going on after step {event.step} of {event.steps}"
        else:
            text += f"; {event.steps} steps in {event.epochs} epochs"
        if event.held_out_loss is not None:
            text += f"; held-out loss before {event.held_out_loss:.3f}"
        if event.seconds is not None:
            text += f"; about {duration(event.seconds)}"
        terminal.note(text)

    def _stepped(self, event: Stepped) -> None:
        self._steps += 1
        note = f"epoch {event.epoch}, loss {event.loss:.3f}"
        self._update(event.step, event.steps, note)
        if self._steps == SETTLED and event.step < event.steps:
            terminal.note(
                f"after {SETTLED} steps: {duration(event.seconds_left)} left,"
                f" {format_size(event.peak_bytes)} of memory used at most"
            )

    def _ended(self, event: EpochEnded) -> None:
        text = f"epoch {event.epoch}/{event.epochs}: loss {event.loss:.3f}"
        if event.held_out_loss is not None:
            text += f", held out {event.held_out_loss:.3f}"
            if event.is_best:
                text += " (best so far)"
        if event.is_best:
            self.best = event
        terminal.note(text)


@contextmanager
def narrator(*, visible: bool = True) -> Iterator[Narrator]:
    """A Narrator with a bar of steps, if it is `visible` and there is a terminal."""
    with terminal.progress("training", count=True, visible=visible) as update:
        yield Narrator(update)


def _count(number: int) -> str:
    if number < 10_000:
        return str(number)
    return f"{number / 1e6:.2f} M" if number < 1e8 else f"{number / 1e9:.2f} G"
