"""Answers from kept features (`train/answers.py`) against those of `ask`."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import ContextError
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess
from fastvlm_mlx.train.answers import ask, gray_features, questions
from fastvlm_mlx.train.data import samples
from fastvlm_mlx.train.data.rows import Row, build_row
from tests.support.mock_model import TEXT, MockModel, make_image


class Encoded:
    """Features of images as the model has them, in float32."""

    dtype = mx.float32

    def __init__(self, model: MockModel, options: ImageOptions):
        self.model, self.options = model, options
        self.width = 32

    def read(self, image: samples.Image) -> mx.array:
        pixels = preprocess(open_image(image), self.options, ())
        return self.model.encode_features(pixels).flatten(0, 1)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    for number in range(3):
        make_image(number).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(3)]


def row(model: MockModel, images: list[Path], *turns: tuple[str, str]) -> Row:
    sample = samples.Sample(tuple(images), turns, None, "data.csv:1")
    return build_row(sample, model.tokenizer, [4] * len(images))


OPTIONS = ImageOptions("pad", 128)


def test_answers_are_those_of_ask(model: MockModel, photos: list[Path]):
    asked = [("What is it?", "12345678"), ("Where?", "123"), ("What is it?", "1234")]
    rows = [
        row(model, [photo], pair) for photo, pair in zip(photos, asked, strict=True)
    ]
    shown: list[tuple[int, int]] = []
    answers = ask(
        model,
        questions(rows),
        Encoded(model, OPTIONS),
        on_progress=lambda done, total: shown.append((done, total)),
    )
    for answer, photo, (question, _) in zip(answers, photos, asked, strict=True):
        other = model.ask(question, photo, max_tokens=64, fit="pad").strip()
        assert answer and other.startswith(answer)
    assert len(set(answers)) == 3
    assert shown[-1] == (3, 3) and len(shown) == 2  # two lengths


def test_each_turn_follows_the_right_answers(model: MockModel, photos: list[Path]):
    turns = ("What is it?", "A cat."), ("Where?", "On a mat, I think.")
    asked = questions([row(model, photos[:2], *turns)])
    assert len(asked) == 2
    answers = ask(model, asked, Encoded(model, OPTIONS))
    chat = model.conversation(photos[:2])
    assert chat.ask("What is it?", max_tokens=64).strip().startswith(answers[0])
    # The same row with its first answer in other words gives another second answer.
    other = ("What is it?", "Twelve dogs with hats."), turns[1]
    changed = ask(
        model, questions([row(model, photos[:2], *other)]), Encoded(model, OPTIONS)
    )
    shorter = min(map(len, (changed[0], answers[0]))) - 1
    assert changed[0][:shorter] == answers[0][:shorter]
    assert changed[1] != answers[1]


def test_hidden_images_are_gray(model: MockModel, photos: list[Path], tmp_path: Path):
    asked = questions(
        [row(model, [photo, photos[0]], ("What?", "1234")) for photo in photos]
    )
    gray = gray_features(model, OPTIONS)
    features = Encoded(model, OPTIONS)
    answers = ask(model, asked, features, hidden=gray)
    assert len(set(answers)) == 1
    assert len(set(ask(model, asked, features))) == 3
    Image.fromarray(np.full((128, 128, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    plain = [tmp_path / "gray.png"] * 2
    (other,) = ask(model, questions([row(model, plain, ("What?", "1234"))]), features)
    assert other == answers[0]


def test_a_set_event_ends_it(model: MockModel, photos: list[Path]):
    cancel = Event()
    cancel.set()
    asked = questions([row(model, photos[:1], ("What?", "1"))])
    with pytest.raises(KeyboardInterrupt):
        ask(model, asked, Encoded(model, OPTIONS), cancel=cancel)


def test_a_question_without_room_is_named(photos: list[Path]):
    model = MockModel(text=replace(TEXT, max_position_embeddings=20))
    asked = questions([row(model, photos[:1], ("What?", "1"))])
    with pytest.raises(ContextError, match="data.csv:1: its question takes .* 20;"):
        ask(model, asked, Encoded(model, OPTIONS))
