"""The results as Markdown tables, one per look, and as a JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.accuracy.asking import LOOKS, Answer, Question
from benchmarks.accuracy.variants import Variant
from fastvlm_mlx.evaluation.metrics.exact import EXACT
from fastvlm_mlx.evaluation.statistics import Z, compare
from fastvlm_mlx.evaluation.tally import Tally

NOT_ASKED = "--"


@dataclass
class Row:
    """One row: a variant's marks and agreement by look and kind.

    `right` holds the marks of its answers, `same` whether they equal those of the first
    row; `marks` are those of `right` in the order of the questions.
    """

    variant: Variant
    right: Tally = field(default_factory=Tally)
    same: Tally = field(default_factory=Tally)
    marks: list[float] = field(default_factory=list)
    seconds: float = 0.0
    fault: str = ""

    def count(self, question: Question, answer: Answer, same_as: Answer) -> None:
        """Counts one answer; `same_as` is the first row's."""
        self.marks.append(EXACT.mark(question.as_evaluated(), answer.text))
        self.right.add(question.category, self.marks[-1])
        self.same.add(question.category, answer.text == same_as.text)
        self.seconds += answer.seconds
        self.fault = self.fault or answer.fault

    def shares(self, look: str, kinds: Sequence[str]) -> dict[str, float]:
        """kind -> share of right answers."""
        return {kind: self.right.share(f"{look}/{kind}") for kind in kinds}

    def agreement(self, look: str, kinds: Sequence[str]) -> float:
        """Share of answers that equal the first row's, right or wrong."""
        return self.same.share(*(f"{look}/{kind}" for kind in kinds))


def markdown(
    rows: Sequence[Row], kinds: Sequence[str], images: int, dtype: str
) -> Iterator[str]:
    """The tables and notes about them, one paragraph at a time."""
    for look in LOOKS:
        yield f"**{look.capitalize()}**, per cent right of {images} images a kind"
        yield "\n".join(_rows(rows, kinds, look))
    yield (
        f"A share is known to within {_margin(images):.0f} points (95%, at worst)"
        + (
            "; the difference of two rows better, as they saw the same images."
            " Same: answers equal to the first row's, right or wrong."
            if len(rows) > 1
            else "."
        )
    )
    yield f"Arithmetic: {dtype}, unless the row says otherwise." + (
        " On a CPU products are float32: the rows in bits show what rounding the"
        " weights costs."
        if dtype == "float32"
        else ""
    )
    faults = [row for row in rows if row.fault]
    if faults:
        yield "\n".join(f"{row.variant.label} not asked: {row.fault}" for row in faults)
    yield from _differences(rows)
    times = [f"{row.variant.label} {_each(row):.3f}" for row in rows if not row.fault]
    yield f"Seconds a question on one core, beside the others: {', '.join(times)}."


def _differences(rows: Sequence[Row]) -> Iterator[str]:
    """A paragraph on whether the rows differ from the first by chance."""
    first, *others = rows
    found = [(row, compare(first.marks, row.marks)) for row in others if not row.fault]
    if found and not first.fault:
        texts = (
            f"{row.variant.label} {100 * each.difference:+.1f} (won {each.won}, lost"
            f" {each.lost}, p = {each.p:.2g})"
            for row, each in found
        )
        yield (
            "Points of all answers from the first row's, with McNemar's exact test:"
            f" {', '.join(texts)}."
        )


def document(rows: Sequence[Row], kinds: Sequence[str]) -> dict[str, Any]:
    """By variant: shares by look and kind, agreement by look, seconds a question; or
    why it was not asked."""
    return {
        row.variant.name: {"not asked": row.fault}
        if row.fault
        else {
            **{look: row.shares(look, kinds) for look in LOOKS},
            "same": {look: row.agreement(look, kinds) for look in LOOKS},
            "interval": list(row.right.total().interval),
            "resolution": row.variant.resolution,
            "tiles": row.variant.tiles,
            "seconds": round(_each(row), 4),
        }
        for row in rows
    }


def _rows(rows: Sequence[Row], kinds: Sequence[str], look: str) -> Iterator[str]:
    columns = [*kinds, "mean"]
    if len(rows) > 1:
        columns.append("same")
    widths = [max(len(column), 5) for column in columns]
    first = max(len(row.variant.label) for row in rows)
    heads = [f"{c:>{width}}" for c, width in zip(columns, widths, strict=True)]
    yield f"| {'':{first}} | {' | '.join(heads)} |"
    rules = [f"{'-' * (width + 1)}:" for width in widths]
    yield f"|{'-' * (first + 2)}|{'|'.join(rules)}|"
    for row in rows:
        cells = [NOT_ASKED] * len(columns)
        if not row.fault:
            shares = list(row.shares(look, kinds).values())
            figures = [*shares, mean(shares), row.agreement(look, kinds)]
            cells = [f"{100 * f:.1f}" for f in figures[: len(columns)]]
        padded = [f"{c:>{width}}" for c, width in zip(cells, widths, strict=True)]
        yield f"| {row.variant.label:{first}} | {' | '.join(padded)} |"


def _each(row: Row) -> float:
    return row.seconds / len(row.marks)


def _margin(images: int) -> float:
    """Half of the 95% interval of a share of one half, in points."""
    return 100 * Z * (0.25 / images) ** 0.5
