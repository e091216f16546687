"""What `eval` makes of marks: the table, the verdict, the document, the options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.app import session
from fastvlm_mlx.app.evaluation import request, table
from fastvlm_mlx.app.evaluation.request import Request, beside, check
from fastvlm_mlx.app.evaluation.result import Change, difference_of, result_of
from fastvlm_mlx.app.evaluation.setup import Setup
from fastvlm_mlx.app.evaluation.table import Report
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.question import Benchmark, Question

SETUP = Setup("m", max_tokens=7, batch=1)


def questions(count: int, categories: tuple[str, ...] = ("",)) -> list[Question]:
    return [
        Question(str(n), (b"x",), "?", ("a",), categories[n % len(categories)])
        for n in range(count)
    ]


def answered(asked: list[Question], texts: str, **fields: Any) -> dict[str, Answer]:
    """An answer of one letter to each of the first questions."""
    return {
        q.id: Answer(q, text, **fields) for q, text in zip(asked, texts, strict=False)
    }


def report(
    texts: str,
    categories: tuple[str, ...] = ("",),
    other: str | None = None,
    setup: Setup = SETUP,
    **fields: Any,
) -> Report:
    asked = questions(len(texts), categories)
    benchmark = Benchmark("textvqa", "Set", tuple(asked), "exact")
    first = result_of("one", "exact", asked, answered(asked, texts, **fields))
    difference = None
    if other is not None:
        second = result_of("two", "exact", asked, answered(asked, other))
        difference = difference_of(first, second)
    return Report(benchmark, setup, first, difference, None)


def test_a_table_of_one_kind_has_one_row():
    lines = report("aab").lines()
    assert lines[0] == "Set: 3 questions, exact match in per cent"
    assert lines[1:4] == ["model: one", "prompt suffix: none", ""]
    assert lines[4].split() == ["n", "score", "95%", "interval"]
    assert lines[5].split()[:3] == ["all", "3", "66.7"] and len(lines) == 6
    assert report("a").lines()[0] == "Set: 1 question, exact match in per cent"
    assert len(report("aab", ("x",)).lines()) == 6


def test_a_table_of_several_kinds():
    lines = report("aaab", ("x", "why")).lines()[4:]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["x", "2", "100.0"],
        ["why", "2", "50.0"],
        ["all", "4", "75.0"],
    ]
    # The names to the left, the figures to the right, nothing behind them.
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith("x    2  ") and lines[2].startswith("why  2  ")


def test_the_papers_figure_stands_beside_the_total():
    lines = report("aaab", ("x", "y"), setup=replace(SETUP, model="0.5b")).lines()[4:]
    assert lines[0].endswith("  paper") and lines[-1].endswith("   64.5")
    assert not lines[1].endswith("64.5") and lines[1] == lines[1].rstrip()
    own = replace(SETUP, model="0.5b", adapter=Path("x"))
    assert report("a", setup=own).published is None
    assert report("a", setup=replace(SETUP, model="0.5b", url="u")).published is None
    document = report("a", setup=replace(SETUP, model="0.5b")).document()
    assert document["published"] == 0.645
    assert report("a").document()["published"] is None


def test_answers_that_were_cut():
    one = report("a", finish_reason="length").lines()
    assert one[-2:] == ["", "1 answer ended at 7 tokens; see --max-tokens"]
    two = report("ab", finish_reason="length").lines()
    assert two[-1] == "2 answers ended at 7 tokens; see --max-tokens"
    assert "tokens" not in report("ab", finish_reason="stop").lines()[-1]


def test_suffixes():
    asked = questions(3)
    own = [replace(asked[0], suffix="s"), replace(asked[1], suffix="b"), asked[2]]
    made = report("aaa")
    shown = replace(made, benchmark=Benchmark("n", "Set", tuple(own), "exact"))
    assert shown.suffix == "as each kind of question has it: b / s"
    plain = Benchmark("n", "Set", tuple(asked), "exact", suffix="Be short.")
    assert replace(made, benchmark=plain).suffix == "Be short."


def test_two_results_side_by_side():
    lines = report("aabb", ("x", "y"), "abaa").lines()
    at = lines.index("against two:")
    assert lines[at - 1] == ""
    assert [line.split()[:5] for line in lines[at + 2 : at + 5]] == [
        ["x", "2", "50.0", "100.0", "+50.0"],
        ["y", "2", "50.0", "50.0", "0.0"],
        ["all", "4", "50.0", "75.0", "+25.0"],
    ]
    assert lines[at + 5].startswith("two won 2, lost 1, and answered 3 of 4 otherwise;")
    assert lines[at + 5].endswith(": the difference may be chance")


def test_the_verdict_of_a_clear_difference():
    for first, second, word in (("a", "b", "worse"), ("b", "a", "better")):
        made = report(first * 20, other=second * 20)
        assert made.difference is not None
        assert table.verdict(made.difference).endswith(f"p < 0.0001: two is {word}")
    edge = made.difference
    for p, end in ((0.05, "may be chance"), (0.0499, "two is better")):
        total = replace(edge.total, p=p)
        assert table.verdict(replace(edge, total=total)).endswith(end)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "p = 0.0001"),
        (9.9e-5, "p < 0.0001"),
        (0.01234, "p = 0.012"),
        (1.0, "p = 1"),
    ],
)
def test_chances(value: float, text: str):
    assert table.format_p(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "+1.2"), (-0.1756, "-17.6"), (0.0004, "0.0"), (-0.0004, "0.0")],
)
def test_points(value: float, text: str):
    assert table.points(value) == text


def test_changes_in_their_order():
    made = report("aabb", other="abaa").difference
    assert made is not None
    assert [each.kind for each in made.changes] == ["lost", "won", "won"]
    assert [each.gain for each in made.changes] == [-1, 1, 1]
    question = questions(1)[0]
    same = Change(question, Answer(question), Answer(question), 0.5, 0.5)
    assert (same.kind, same.gain) == ("same", 0)


def test_blanks_and_failures_of_answers():
    asked = questions(4)
    first = answered(asked, "xxx")
    second = {
        "0": Answer(asked[0], " x\n"),
        "1": Answer(asked[1], "x", error="gone"),
        "3": Answer(asked[3], "x"),
    }
    one = result_of("one", "exact", asked, first)
    two = result_of("two", "exact", asked, second)
    made = difference_of(one, two)
    assert [each.question.id for each in made.changes] == ["1"]
    assert made.total.count == 2 and two.failed == ["gone"] and one.cut == 0


def test_a_document():
    made = report("aabb", ("x", "y"), "abaa").document()
    assert (made["questions"], made["score"], made["failed"], made["cut"]) == (
        4,
        0.5,
        0,
        0,
    )
    assert [each["category"] for each in made["categories"]] == ["x", "y"]
    against = made["against"]
    assert (against["changed"], against["won"], against["lost"]) == (3, 2, 1)
    assert (against["first"], against["second"], against["difference"]) == (
        0.5,
        0.75,
        0.25,
    )
    assert list(against["categories"]) == ["x", "y"] and against["failed"] == 0
    alone = report("a").document()
    assert "against" not in alone and "extra" not in alone and "notes" not in alone
    assert alone["categories"] == []


def asked_for(**fields: Any) -> Request:
    return Request(fields.pop("setup", SETUP), "data", **fields)


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    monkeypatch.setattr(request.packages, "check", lambda *given: asked.append(given))
    return asked


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"setup": replace(SETUP, batch=0)}, "--batch 0: must be at least 1"),
        ({"metric": "x"}, "--metric x: unknown; use one of exact, text, "),
        ({"format": "x"}, "--format x: unknown; use one of "),
        ({"overwrite": True}, "--overwrite is for a file of answers; name it with -o"),
        ({"page": Path("p.html")}, "--page p.html: shows the answers that differ from"),
        ({"against": "m"}, "--against m: is what is evaluated; name another"),
        ({"setup": replace(SETUP, api_key="k")}, "--api-key is for a server; name it"),
    ],
)
def test_options_that_do_not_go_together(fields: dict[str, Any], told: str):
    with pytest.raises(session.UsageError) as caught:
        check(asked_for(**fields))
    assert str(caught.value).startswith(told)


def test_options_that_do(tmp_path: Path, monkeypatch, encoders: list[Any]):
    monkeypatch.chdir(tmp_path)
    found = check(asked_for(limit=1, metric="exact"))
    assert (found.out, found.other, found.other_out) == (None, None, None)
    assert encoders == [("auto", None)]
    other = Path("answers.jsonl")
    other.write_text("")
    found = check(asked_for(against=str(other), out="a.jsonl"))
    assert found.other == other and found.other_out is None
    assert found.out is not None and found.out.name == "a.jsonl"
    found = check(asked_for(against="org/n", out="a.jsonl", page=Path("p.html")))
    assert isinstance(found.other, Setup) and found.other_out is not None
    assert found.other_out.name == "a.against-n.jsonl"
    assert check(asked_for(against="org/n")).other_out is None
    with pytest.raises(
        session.UsageError, match="--against answers.jsonl: is the file"
    ):
        check(asked_for(against="answers.jsonl", out="./answers.jsonl"))


@pytest.mark.parametrize(
    ("against", "name"),
    [
        ("0.5b-4bit", "a.against-0.5b-4bit.jsonl"),
        ("resolution=512", "a.against-resolution=512.jsonl"),
        ("x/y/", "a.against-y.jsonl"),
        ("p q:r_1", "a.against-p-q-r_1.jsonl"),
        ("y" * 99, f"a.against-{'y' * 80}.jsonl"),
    ],
)
def test_where_the_others_answers_go(against: str, name: str):
    assert beside(Path("in/a.jsonl"), against) == Path("in", name)
