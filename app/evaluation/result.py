"""The marks of a setup's answers, and how two setups' marks compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastvlm_mlx.app.evaluation.answers import marked
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.question import Question
from fastvlm_mlx.evaluation.statistics import Comparison, compare
from fastvlm_mlx.evaluation.tally import Tally


@dataclass(frozen=True)
class Result:
    """How a setup did.

    - `name`: who answered.
    - `answers`: by the id of the question.
    - `marks`: 0 to 1 by the id of the question, in their order.
    - `tally`: the marks by category.
    - `extra`: figures of the whole set by name, such as POPE's F1.
    """

    name: str
    answers: Mapping[str, Answer]
    marks: Mapping[str, float]
    tally: Tally
    extra: Mapping[str, float]

    @property
    def failed(self) -> list[str]:
        """Why questions could not be asked, a line each."""
        return [each.error for each in self.answers.values() if each.error is not None]

    @property
    def cut(self) -> int:
        """Answers that ended at the most tokens."""
        return sum(each.finish_reason == "length" for each in self.answers.values())


def result_of(
    name: str,
    metric: str,
    questions: Sequence[Question],
    answers: Mapping[str, Answer],
) -> Result:
    """Marks the answers to those `questions` that have one; at least one has."""
    chosen = METRICS[metric]
    given = {each.id: answers[each.id] for each in questions if each.id in answers}
    marks = {id: marked(chosen.mark, answer) for id, answer in given.items()}
    tally = Tally((given[id].question.category, mark) for id, mark in marks.items())
    extra = {}
    if chosen.extra is not None:
        extra = chosen.extra([(each.question, each.text) for each in given.values()])
    return Result(name, given, marks, tally, extra)


@dataclass(frozen=True)
class Change:
    """A question whose answer differs; `gain` is the second's mark less the first's."""

    question: Question
    first: Answer
    second: Answer
    first_mark: float
    second_mark: float

    @property
    def gain(self) -> float:
        return self.second_mark - self.first_mark

    @property
    def kind(self) -> str:
        """ "won" or "lost" by the second, or "same" where the marks are equal."""
        return "won" if self.gain > 0 else "lost" if self.gain < 0 else "same"


@dataclass(frozen=True)
class Difference:
    """The second result against the first, on the questions that both answered.

    - `total`, `categories`: the comparisons of their marks.
    - `changes`: what was answered otherwise, lost ones first.
    """

    first: Result
    second: Result
    total: Comparison
    categories: Mapping[str, Comparison]
    changes: Sequence[Change]


def difference_of(first: Result, second: Result) -> Difference:
    """Compares two results of one benchmark; at least one question is in both.

    Raises:
        OptionError: they have no question in common.
    """
    both = [id for id in first.marks if id in second.marks]
    by_category: dict[str, list[str]] = {}
    for id in both:
        by_category.setdefault(first.answers[id].question.category, []).append(id)

    def compared(ids: Sequence[str]) -> Comparison:
        return compare([first.marks[i] for i in ids], [second.marks[i] for i in ids])

    changes = [
        Change(
            question=first.answers[id].question,
            first=first.answers[id],
            second=second.answers[id],
            first_mark=first.marks[id],
            second_mark=second.marks[id],
        )
        for id in both
        if _said(first.answers[id]) != _said(second.answers[id])
    ]
    order = {"lost": 0, "won": 1, "same": 2}
    return Difference(
        first=first,
        second=second,
        total=compared(both),
        categories={name: compared(ids) for name, ids in by_category.items()},
        changes=sorted(changes, key=lambda change: order[change.kind]),
    )


def _said(answer: Answer) -> tuple[str, bool]:
    return answer.text.strip(), answer.error is None
