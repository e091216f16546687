"""Scores answers against the expected ones.

The expected answers tell how: JSON objects are scored field by field, short answers by
exact match, longer text by its character error rate (CER).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation import statistics
from fastvlm_mlx.evaluation.metrics.exact import plain
from fastvlm_mlx.evaluation.metrics.fields import field_marks, json_object
from fastvlm_mlx.evaluation.metrics.text import edit_distance, quality

Kind = Literal["exact", "text", "fields"]
SHORT = 40  # characters of the longest answer that is scored by exact match alone


@dataclass(frozen=True)
class Score:
    """How a list of answers compares with the expected ones.

    - `kind`: "exact", "text" or "fields".
    - `count`: the number of answers; `exact` of them are equal to the expected one.
    - `cer`: wrong characters by expected characters, of all answers together; above 1
      where answers are much too long.
    - `fields`: field -> (right, expected); empty but for JSON.
    - `qualities`: one number from 0 to 1 for each answer, 1 being right: for "exact" 0
      or 1, for "text" one minus its CER, for "fields" the share of its right fields.
    """

    kind: Kind
    count: int
    exact: int
    cer: float
    fields: dict[str, tuple[int, int]]
    qualities: tuple[float, ...]

    @property
    def quality(self) -> float:
        """The mean of `qualities`: 0 to 1, higher is better."""
        return sum(self.qualities) / self.count

    def __str__(self) -> str:
        """`exact 17/20`, `CER 0.061, exact 3/20`, `fields 55/60, exact 15/20`."""
        exact = f"exact {self.exact}/{self.count}"
        if self.kind == "text":
            return f"CER {self.cer:.3f}, {exact}"
        if self.kind == "fields":
            right, asked = map(sum, zip(*self.fields.values(), strict=True))
            return f"fields {right}/{asked}, {exact}"
        return exact

    def document(self) -> dict[str, Any]:
        """What a log or a report keeps of it, as JSON."""
        fields = {name: list(counts) for name, counts in self.fields.items()}
        return {
            "kind": self.kind,
            "count": self.count,
            "exact": self.exact,
            "cer": self.cer,
            "quality": self.quality,
            **({"fields": fields} if fields else {}),
        }


def score(
    expected: Sequence[str], answers: Sequence[str], kind: Kind | None = None
) -> Score:
    """Compares answers with the expected ones, white space at their ends aside.

    Args:
        expected: the right answers.
        answers: the model's, in the same order.
        kind: how they are scored; None: as `kind_of` says of `expected`.
    Raises:
        OptionError: there is no answer, or not one for each expected one.
    """
    if not expected or len(expected) != len(answers):
        raise OptionError(
            f"score: {len(answers)} answers for {len(expected)} expected ones; give at"
            " least one, and one for each"
        )
    kind = kind_of(expected) if kind is None else kind
    pairs = [
        (plain(right), plain(given))
        for right, given in zip(expected, answers, strict=True)
    ]
    errors = [edit_distance(right, given) for right, given in pairs]
    characters = sum(len(right) for right, _ in pairs)
    fields: dict[str, tuple[int, int]] = {}
    if kind == "fields":
        qualities = []
        for right, given in pairs:
            marks = field_marks(right, given)
            for name, mark in marks:
                hits, asked = fields.get(name, (0, 0))
                fields[name] = (hits + mark, asked + 1)
            qualities.append(sum(mark for _, mark in marks) / max(len(marks), 1))
    elif kind == "text":
        qualities = [quality(right, given) for right, given in pairs]
    else:
        qualities = [float(right == given) for right, given in pairs]
    return Score(
        kind=kind,
        count=len(pairs),
        exact=sum(right == given for right, given in pairs),
        cer=sum(errors) / max(characters, 1),
        fields=fields,
        qualities=tuple(qualities),
    )


def kind_of(expected: Sequence[str]) -> Kind:
    """How answers like these are scored: "fields", "exact" or "text"."""
    if all(json_object(each) for each in expected):
        return "fields"
    short = all(len(each) <= SHORT and "\n" not in each.strip() for each in expected)
    return "exact" if short else "text"


def chance(expected: Sequence[str]) -> float:
    """The share of right answers of who always gives the most frequent one."""
    return Counter(map(plain, expected)).most_common(1)[0][1] / len(expected)


def is_better(before: Score, after: Score) -> bool:
    """Whether the second has the higher quality."""
    return after.quality > before.quality


def by_chance(before: Score, after: Score) -> float:
    """How likely so clear a difference is if neither is better (a two-sided sign test).

    Both must be of the same questions in the same order. Below
    `statistics.SIGNIFICANT` the difference is no accident.
    """
    pairs = list(zip(before.qualities, after.qualities, strict=True))
    won, lost = sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)
    return statistics.by_chance(won, lost)
