"""What `train` says about a run: scores, answers side by side, a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_mlx.evaluation.scoring import Score, by_chance, is_better
from fastvlm_mlx.evaluation.statistics import SIGNIFICANT

SHOWN = 8  # answers side by side
WIDTH = 24  # characters of a text in that table


@dataclass(frozen=True)
class Examined:
    """The held-out questions, and how they were answered.

    - `images`: the name of each question's first image.
    - `expected`, `before`, `after`: the right answers, and the model's.
    - `hidden`: the answers after training with a gray image in place of each.
    """

    images: Sequence[str]
    expected: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]
    hidden: Sequence[str]


def scores(before: Score, after: Score, hidden: Score, guess: float) -> list[str]:
    """The table of scores, `guess` being that of the most frequent answer."""
    rows = [
        ("before", str(before)),
        ("after", str(after)),
        ("after, images hidden", str(hidden)),
    ]
    if before.kind == "exact":
        always = f"exact {round(guess * before.count)}/{before.count}"
        rows.append(("always the commonest answer", always))
    lines = [f"  {name:28}{text}" for name, text in rows]
    if after.fields:
        lines += [
            f"  field {name:22}{before.fields[name][0]}/{count} -> {right}/{count}"
            for name, (right, count) in after.fields.items()
        ]
    return [f"held out, {before.count} {_plural('question', before.count)}:", *lines]


def side_by_side(examined: Examined) -> list[str]:
    """Some answers before and after as a table, those that changed first."""
    order = sorted(
        range(len(examined.expected)),
        key=lambda at: examined.before[at] == examined.after[at],
    )[:SHOWN]
    columns = [
        ["image", *(examined.images[at] for at in order)],
        ["expected", *(examined.expected[at] for at in order)],
        ["before", *(examined.before[at] for at in order)],
        ["after", *(examined.after[at] for at in order)],
    ]
    cut = [[_cut(text) for text in column] for column in columns]
    widths = [max(map(len, column)) for column in cut]
    return [
        "  " + "  ".join(f"{t:{w}}" for t, w in zip(row, widths, strict=True)).rstrip()
        for row in zip(*cut, strict=True)
    ]


def verdict(before: Score, after: Score, hidden: Score) -> list[str]:
    """What the scores mean, a line for each finding."""
    lines: list[str] = []
    better = is_better(before, after)
    if not better:
        lines.append(
            "no better than before: try a higher --lr, more --epochs or more samples"
            " (docs/training.md says what else)"
        )
    elif (likely := by_chance(before, after)) >= SIGNIFICANT:
        lines.append(
            f"better than before, but on {before.count}"
            f" {_plural('question', before.count)} such a difference may be chance"
            f" (sign test: p = {likely:.2f}); hold out more samples to know"
        )
    else:
        lines.append("better than before")
    if is_better(hidden, after):
        lines.append("with the images hidden it answers worse: it does look")
    elif after.quality > 0:
        lines.append(
            "with the images hidden it answers as well: it does not look; the answers"
            " can be guessed from the questions"
        )
    return lines


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
