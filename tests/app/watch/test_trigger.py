"""`--when`: the question, the probability, and the hysteresis."""

import pytest

from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.app.watch.trigger import ANSWERS, Trigger, probability, question_of
from fastvlm_mlx.conversation.choose import Choice


def test_it_fires_once_and_again_after_it_fell():
    trigger = Trigger(0.6)
    values = (0.1, 0.59, 0.61, 0.9, 0.5, 0.7, 0.41, 0.65, 0.39, 0.59, 0.6, 0.8)
    fired = [at for at, value in enumerate(values) if trigger.update(value)]
    assert fired == [2, 10]
    assert trigger.active
    assert not trigger.update(float("nan")) and trigger.active
    assert not trigger.update(0.0) and not trigger.active


def test_without_hysteresis_it_fires_at_each_rise():
    trigger = Trigger(0.5, 0.5)
    assert [trigger.update(value) for value in (0.5, 0.49, 0.5, 0.5)] == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("threshold", "release", "said"),
    [
        (0.0, None, "--threshold 0: give a probability such as 0.6"),
        (1.0, None, "--threshold 1: give a probability such as 0.6"),
        (60, None, "--threshold 60: give a probability such as 0.6"),
        (float("nan"), None, "--threshold nan: give a probability such as 0.6"),
        (0.5, 0.6, "--release 0.6: give a probability up to --threshold, 0.5"),
        (0.5, -0.1, "--release -0.1: give a probability up to --threshold, 0.5"),
    ],
)
def test_what_is_no_probability(threshold, release, said):
    with pytest.raises(UsageError) as caught:
        Trigger(threshold, release)
    assert str(caught.value) == said
    assert Trigger(0.1).release == 0


def test_a_sentence_becomes_a_question():
    sentence = "Is this true of the image: a person is at the door? Answer Yes or No."
    assert question_of(" a person is at the door. ") == sentence
    assert question_of("Is there a cat?") == "Is there a cat?"


def test_both_spellings_of_yes_count():
    found = Choice("Yes", ANSWERS, (0.5, 0.2, 0.25, 0.05), (0.0,) * 4, (1,) * 4)
    assert probability(found) == pytest.approx(0.75)
