"""The results as Markdown tables, one per look, and as a JSON document."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.accuracy.asking import LOOKS, Answer, Question
from benchmarks.accuracy.variants import Variant

NOT_ASKED = "--"


@dataclass
class Tally:
    """One row: a variant's counts by look and kind.

    `same` counts the answers that equal those of the first row.
    """

    variant: Variant
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    same: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0
    fault: str = ""

    def count(self, question: Question, answer: Answer, same_as: Answer) -> None:
        """Counts one answer; `same_as` is the first row's."""
        key = (question.look, question.kind)
        self.asked[key] += 1
        self.right[key] += answer.text == question.answer
        self.same[key] += answer.text == same_as.text
        self.seconds += answer.seconds
        self.fault = self.fault or answer.fault

    def shares(self, look: str, kinds: Sequence[str]) -> dict[str, float]:
        """kind -> share of right answers."""
        return {k: self.right[look, k] / self.asked[look, k] for k in kinds}

    def agreement(self, look: str, kinds: Sequence[str]) -> float:
        """Share of answers that equal the first row's, right or wrong."""
        asked = sum(self.asked[look, kind] for kind in kinds)
        return sum(self.same[look, kind] for kind in kinds) / asked


def markdown(
    tallies: Sequence[Tally], kinds: Sequence[str], images: int, dtype: str
) -> Iterator[str]:
    """The tables and notes about them, one paragraph at a time."""
    for look in LOOKS:
        yield f"**{look.capitalize()}**, per cent right of {images} images a kind"
        yield "\n".join(_rows(tallies, kinds, look))
    yield (
        f"A share is known to within {_margin(images):.0f} points (95%, at worst)"
        + (
            "; the difference of two rows better, as they saw the same images."
            " Same: answers equal to the first row's, right or wrong."
            if len(tallies) > 1
            else "."
        )
    )
    yield f"Arithmetic: {dtype}, unless the row says otherwise." + (
        " A CPU undoes quantization on load: the rows in bits show what rounding the"
        " weights costs."
        if dtype == "float32"
        else ""
    )
    faults = [t for t in tallies if t.fault]
    if faults:
        yield "\n".join(f"{t.variant.label} not asked: {t.fault}" for t in faults)
    times = [f"{t.variant.label} {_each(t):.3f}" for t in tallies if not t.fault]
    yield f"Seconds a question on one core, beside the others: {', '.join(times)}."


def document(tallies: Sequence[Tally], kinds: Sequence[str]) -> dict[str, Any]:
    """By variant: shares by look and kind, agreement by look, seconds a question; or
    why it was not asked."""
    return {
        tally.variant.name: {"not asked": tally.fault}
        if tally.fault
        else {
            **{look: tally.shares(look, kinds) for look in LOOKS},
            "same": {look: tally.agreement(look, kinds) for look in LOOKS},
            "resolution": tally.variant.resolution,
            "tiles": tally.variant.tiles,
            "seconds": round(_each(tally), 4),
        }
        for tally in tallies
    }


def _rows(tallies: Sequence[Tally], kinds: Sequence[str], look: str) -> Iterator[str]:
    columns = [*kinds, "mean"]
    if len(tallies) > 1:
        columns.append("same")
    widths = [max(len(column), 5) for column in columns]
    first = max(len(tally.variant.label) for tally in tallies)
    heads = [f"{c:>{width}}" for c, width in zip(columns, widths, strict=True)]
    yield f"| {'':{first}} | {' | '.join(heads)} |"
    rules = [f"{'-' * (width + 1)}:" for width in widths]
    yield f"|{'-' * (first + 2)}|{'|'.join(rules)}|"
    for tally in tallies:
        cells = [NOT_ASKED] * len(columns)
        if not tally.fault:
            shares = list(tally.shares(look, kinds).values())
            figures = [*shares, mean(shares), tally.agreement(look, kinds)]
            cells = [f"{100 * f:.1f}" for f in figures[: len(columns)]]
        padded = [f"{c:>{width}}" for c, width in zip(cells, widths, strict=True)]
        yield f"| {tally.variant.label:{first}} | {' | '.join(padded)} |"


def _each(tally: Tally) -> float:
    return tally.seconds / tally.asked.total()


def _margin(images: int) -> float:
    """Half of the 95% interval of a share of one half, in points."""
    return 100 * 1.96 * (0.25 / images) ** 0.5
