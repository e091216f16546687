"""Scores of answers (`fastvlm_mlx/evaluation/scoring.py`)."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.metrics.text import edit_distance
from fastvlm_mlx.evaluation.scoring import (
    by_chance,
    chance,
    is_better,
    kind_of,
    score,
)

text = some.text("abé \n", max_size=90)


def table_distance(right: str, answer: str) -> int:
    """The textbook's table."""
    row = list(range(len(right) + 1))
    for j, character in enumerate(answer, start=1):
        corner, row[0] = row[0], j
        for i, wanted in enumerate(right, start=1):
            other = min(row[i], row[i - 1]) + 1
            corner, row[i] = row[i], min(other, corner + (wanted != character))
    return row[-1]


@given(text, text)
def test_distance_is_that_of_the_table(right: str, answer: str):
    assert edit_distance(right, answer) == table_distance(right, answer)


def test_distance_of_long_text():
    assert edit_distance("ab" * 2000, "ab" * 1999 + "xb") == 1
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        (["France", "Italy"], "exact"),
        (["x" * 40], "exact"),
        (["x" * 41], "text"),
        (["one", "two\nlines"], "text"),
        (['{"total": 3}', '{"total": 4}'], "fields"),
        (['{"total": 3}', "three"], "exact"),
        (["{}", "[1]", "3"], "exact"),
        (["[" * 100_000], "text"),
    ],
)
def test_the_expected_answers_tell_the_kind(expected: list[str], kind: str):
    assert kind_of(expected) == kind


def test_exact_match():
    found = score(["France", "Italy", "Peru"], [" France\n", "italy", "Mali"])
    assert (found.exact, found.count) == (1, 3)
    assert found.qualities == (1, 0, 0)
    assert str(found) == "exact 1/3"
    assert found.document() == {
        "kind": "exact",
        "count": 3,
        "exact": 1,
        "cer": pytest.approx((0 + 1 + 4) / 15),
        "quality": pytest.approx(1 / 3),
    }


def test_composed_and_decomposed_letters_are_equal():
    assert score(["Österreich"], ["O\N{COMBINING DIAERESIS}sterreich"]).exact == 1


def test_text_is_scored_by_characters():
    right = ["a long line of text, forty-one characters", "short"]
    found = score(right, [right[0], "much too long for it"])
    wrong = edit_distance("short", "much too long for it")
    assert found.kind == "text"
    assert found.cer == wrong / (len(right[0]) + 5)
    assert found.qualities == (1.0, 0.0)  # never below zero
    assert str(found) == f"CER {found.cer:.3f}, exact 1/2"


def test_an_empty_expected_answer_counts_characters_that_should_not_be():
    assert score(["", "ab"], ["xyz", "ab"], "text").cer == 1.5
    assert score(["", ""], ["", ""], "text").cer == 0


def test_json_is_scored_by_field():
    right = ['{"total": 3.0, "seller": {"name": "A", "tags": ["x"]}}', '{"total": 1}']
    given = ['{"seller": {"tags": ["x"], "name": "B"}, "total": 3}', '{"total": true}']
    found = score(right, given)
    assert found.fields == {
        "total": (1, 2),
        "seller.name": (0, 1),
        "seller.tags": (1, 1),
    }
    assert found.qualities == (2 / 3, 0)
    assert str(found) == "fields 2/4, exact 0/2"
    assert found.document()["fields"]["total"] == [1, 2]


def test_what_is_no_json_has_no_field_right():
    found = score(['{"a": 1, "b": null}'], ["It is {a: 1}"])
    assert found.fields == {"a": (0, 1), "b": (0, 1)}


@pytest.mark.parametrize("answers", [[], ["x"]])
def test_answers_must_be_as_many(answers: list[str]):
    with pytest.raises(OptionError, match=f"{len(answers)} answers for 2 expected"):
        score(["a", "b"], answers)


def test_none_to_score():
    with pytest.raises(OptionError, match="0 answers for 0 expected ones; give at"):
        score([], [])


def test_chance_is_the_most_frequent_answer():
    assert chance(["a", "b", "a ", "c"]) == 0.5


def test_better_and_by_chance():
    right = ["a"] * 8
    none, half, most = (score(right, ["a"] * n + ["b"] * (8 - n)) for n in (0, 4, 7))
    assert is_better(none, half) and not is_better(half, half)
    assert not is_better(half, none)
    assert by_chance(half, half) == 1
    assert by_chance(none, half) == by_chance(half, none) == 2 / 2**4
    assert by_chance(none, most) == 2 / 2**7
    # one lost, two won: (1 + 3) of 8 outcomes, on either side
    mixed = score(["a"] * 3, ["a", "b", "b"]), score(["a"] * 3, ["b", "a", "a"])
    assert by_chance(*mixed) == 1
