"""The picture world: reproducible, and its questions agree with its scenes."""

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
def test_scenes_stay_inside_the_picture(held_out: bool) -> None:
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


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown kind of scene: 'film'"):
        world.sample(0, "film")
