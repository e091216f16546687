"""Marks that no official code gives (`fastvlm_mlx/evaluation/metrics`)."""

import pytest

from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.metrics.text import quality
from fastvlm_mlx.evaluation.question import Question


def marked(metric: str, answers: list[str], answer: str, *choices: str) -> float:
    question = Question("1", (b"x",), "?", tuple(answers), choices=choices)
    return METRICS[metric].mark(question, answer)


@pytest.mark.parametrize("name", METRICS)
def test_names_are_those_of_the_metrics(name: str):
    assert METRICS[name].name == name
    assert METRICS[name].label


def test_marks_between_0_and_1():
    between = {name for name, metric in METRICS.items() if not metric.binary}
    assert between == {"text", "fields", "vqa", "anls"}


def test_exact_match_with_any_accepted_answer():
    assert marked("exact", ["cat", "kitten"], " kitten\n") == 1
    assert marked("exact", ["cat"], "Cat") == 0
    assert marked("exact", ["Ö"], "O\N{COMBINING DIAERESIS}") == 1


def test_text_is_marked_against_the_nearest():
    assert marked("text", ["abcd", "abce"], "abcx") == 0.75
    assert marked("text", ["ab"], "much longer") == 0
    assert marked("text", ["x", "abcd"], " abcd ") == 1
    assert quality("", "x") == 0


def test_fields():
    assert marked("fields", ['{"a": 1, "b": {"c": "x"}}'], '{"a": 1.0, "b": 2}') == 0.5
    assert marked("fields", ['{"a": 1}', '{"a": 2}'], '{"a": 2}') == 1
    assert marked("fields", ['{"a": 1}'], "none") == 0
    # The order of the fields of an object does not count, that of a list does.
    assert marked("fields", ['{"a": [{"b": 1, "c": 2}]}'], '{"a": [{"c": 2, "b": 1}]}')
    assert not marked("fields", ['{"a": [1, 2]}'], '{"a": [2, 1]}')


def test_one_annotator_is_no_vote():
    assert marked("vqa", ["two dogs"], "2 dogs.") == 1
    assert marked("vqa", ["two dogs"], "dogs") == 0


def test_few_annotators():
    # Each of those who said it has one other; the third has two.
    assert marked("vqa", ["a dog", "dog", "cat"], "dog") == pytest.approx(4 / 9)


def test_letters_of_questions_without_options():
    assert marked("letter", ["Downhill"], " downhill. ") == 1
    assert marked("letter", ["3"], "about 3") == 0


def test_an_option_that_cannot_be_told_is_wrong():
    for metric in ("letter", "mmmu", "scienceqa"):
        assert marked(metric, ["A"], "", "cat", "dog") == 0
        assert marked(metric, ["A"], "A", "cat", "dog") == 1


def test_label_of_pope_in_any_case():
    # VLMEvalKit writes "Yes", POPE "yes".
    assert marked("yes_no", ["Yes"], "Yes.") == 1
    assert marked("yes_no", ["No"], "There is no dog.") == 1


def test_pope_of_nothing_found():
    no = Question("1", (b"x",), "?", ("no",))
    extra = METRICS["yes_no"].extra
    assert extra is not None
    assert extra([(no, "no")]) == {
        "F1": 0,
        "precision": 0,
        "recall": 0,
        "yes ratio": 0,
    }
