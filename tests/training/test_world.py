"""The image world: reproducible, and its questions agree with its scenes."""

import re

import numpy as np
import pytest

from training import questions, world
from training.words import HELD_OUT_WORDS, TRAINING_WORDS

SEEDS = range(60)


def test_a_seed_gives_one_scene() -> None:
    assert world.sample(5) == world.sample(5)
    assert world.sample(5) != world.sample(6)
    assert world.sample(5) != world.sample(5, held_out=True)


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_stay_inside_the_image(held_out: bool) -> None:
    for seed in SEEDS:
        scene = world.sample(seed, held_out=held_out)
        assert scene.shapes or scene.signs
        for shape in scene.shapes:
            for v in (shape.x, shape.y):
                assert shape.radius <= v <= world.SIZE - shape.radius
        for sign in scene.signs:
            assert all(0 < x < 256 and 0 < y < 256 for x, y in sign.centres())


def test_shapes_do_not_overlap() -> None:
    for seed in SEEDS:
        shapes = world.sample(seed, "shapes").shapes
        for i, a in enumerate(shapes):
            for b in shapes[:i]:
                assert np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius


def test_labels_hold_every_character_and_shape() -> None:
    for seed in SEEDS:
        scene = world.sample(seed)
        found = world.labels(scene)
        number = len(scene.shapes) + sum(len(sign.text) for sign in scene.signs)
        assert (found.thing > 0).sum() == number
        assert ((found.colour >= 0) == (found.thing > 0)).all()


def test_the_held_out_look_shares_no_word_with_training() -> None:
    assert not set(HELD_OUT_WORDS) & set(TRAINING_WORDS)
    assert all(3 <= len(word) <= 5 for word in HELD_OUT_WORDS)


@pytest.mark.parametrize(
    ("x", "y", "answer"),
    [
        (10, 10, "top left"),
        (128, 128, "center"),
        (250, 128, "right"),
        (128, 250, "bottom"),
    ],
)
def test_places_are_named_by_thirds(x: float, y: float, answer: str) -> None:
    assert questions.place(x, y) == answer


def test_places_near_a_border_are_not_asked() -> None:
    assert not questions.settled(85, 128)
    assert questions.settled(128, 128)


def test_count_and_colour_questions_agree_with_the_scene() -> None:
    for seed in SEEDS:
        scene = world.sample(seed, "shapes")
        for pair in questions.pairs(scene):
            assert pair.kind in questions.KINDS
            if pair.question in ("Count the shapes.", "How many shapes are there?"):
                assert pair.answer == str(len(scene.shapes))
            if pair.kind == "yes/no":
                assert pair.answer in ("Yes", "No")


def test_yes_and_no_are_about_as_frequent() -> None:
    answers = [
        pair.answer
        for seed in range(300)
        for pair in questions.pairs(world.sample(seed))
        if pair.kind == "yes/no"
    ]
    assert 0.38 < answers.count("Yes") / len(answers) < 0.62


SIDES = {
    "left of": lambda a, b: a[0] < b[0],
    "right of": lambda a, b: a[0] > b[0],
    "above": lambda a, b: a[1] < b[1],
    "below": lambda a, b: a[1] > b[1],
}


def test_what_a_comparison_names_settles_its_answer() -> None:
    seen = set()
    for seed in range(300):
        for pair in questions.pairs(world.sample(seed, "shapes")):
            side = next((s for s in SIDES if s in pair.question), None)
            if side is None:
                continue
            first, second = pair.mentions
            assert pair.question[: first.end].split()[-1] in world.SHAPES
            assert pair.question[second.end :] == "?"
            truth = SIDES[side](first.place, second.place)
            assert pair.answer == ("Yes" if truth else "No")
            seen.add((side, truth))
    assert len(seen) == 8


def test_each_character_of_a_claim_is_there_or_not() -> None:
    answers = set()
    for seed in range(200):
        scene = world.sample(seed, "sign")
        text = scene.signs[0].text
        for pair in questions.pairs(scene):
            claimed = re.search(r"[A-Z]{2,}|\d+", pair.question)
            if pair.kind != "yes/no" or not claimed:
                continue
            claim, ends = claimed[0], range(claimed.start() + 1, claimed.end() + 1)
            assert [mention.end for mention in pair.mentions] == list(ends)
            there = [text[i : i + 1] == letter for i, letter in enumerate(claim)]
            assert [mention.there for mention in pair.mentions] == there
            answers.add(pair.answer)
    assert answers == {"Yes", "No"}


def test_many_asks_each_question_once_and_keeps_the_answers() -> None:
    scene = world.sample(3, "shapes")
    many = questions.many(scene)
    answers = {pair.question: pair.answer for pair in many}
    assert len(answers) == len(many) > len(questions.pairs(scene))
    assert {pair.question: pair.answer for pair in questions.pairs(scene)}.items() <= (
        answers.items()
    )


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown kind of scene: 'film'"):
        world.sample(0, "film")
