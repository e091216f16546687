"""`choose`: sums over whole choices, as one forward pass without cache gives them."""

import math
import unicodedata
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.conversation import choose
from fastvlm_mlx.conversation.choose import Choice
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.errors import ContextError, ImageError, OptionError
from fastvlm_mlx.fastvlm import FastVLM
from tests.support.full_pass import full_logprobs
from tests.support.mock_model import MockModel, make_image, plain
from tests.support.paths import ROOT

CHOICES = ["red", "blue circle", "3", "the heart at the bottom left", "Café 猫"]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    return load("demo", dtype="float32")


def expected(conversation: Conversation, prompt: list[Any], text: str) -> float:
    """The log-probability of `text` and an end, by a forward pass of its own."""
    model = conversation.model
    ids = model.tokenizer.encode(text)
    rows = full_logprobs(model, prompt, ids)
    said = sum(row[token] for row, token in zip(rows, ids, strict=False))
    ends = [rows[-1][stop] for stop in model.tokenizer.stop_ids]
    return float(said + np.logaddexp.reduce(ends))


def check(conversation: Conversation, found: Choice) -> None:
    *prompt, answer = conversation.state.pieces
    wanted = [expected(conversation, prompt, text) for text in found.choices]
    np.testing.assert_allclose(found.logprobs, wanted, atol=CLOSE)
    weights = np.exp(np.array(wanted) - max(wanted))
    np.testing.assert_allclose(found.probabilities, weights / weights.sum(), atol=CLOSE)
    assert sum(found.probabilities) == pytest.approx(1, abs=1e-9)
    best = int(np.argmax(wanted))
    assert found.answer == found.choices[best]
    assert max(found.probabilities) == found.probabilities[best]
    encode = conversation.model.tokenizer.encode
    assert answer == encode(found.answer)
    assert found.token_counts == tuple(len(encode(t)) + 1 for t in found.choices)


def same(found: Choice, wanted: Choice) -> None:
    assert (found.answer, found.choices) == (wanted.answer, wanted.choices)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=CLOSE)


@pytest.mark.parametrize("names", [["beach"], ["crowd", "word"], []])
@pytest.mark.parametrize("question", ["Which color is the cross?", "What is shown?"])
def test_they_are_those_of_a_full_forward_pass(demo, names, question):
    images = [ROOT / "examples" / f"{name}.png" for name in names]
    conversation = demo.conversation(images)
    found = conversation.choose(question, (), CHOICES)
    check(conversation, found)
    same(found, demo.choose(question, images, CHOICES))


def test_the_likeliest_is_the_demo_models_answer(demo):
    image = ROOT / "examples" / "beach.png"
    for question, choices in (
        ("Which color is the cross?", ["blue", "green", "red"]),
        ("How many shapes are in the image?", ["2", "3", "4"]),
        ("What text is in the image?", ["MUSIC", "BEACH", "BEA"]),
    ):
        found = demo.choose(question, image, choices)
        assert found.answer == demo.ask(question, image)
        assert found.answer in choices and max(found.probabilities) > 0.9


def test_a_choice_ends_where_it_ends(model):
    """The probability of "cat" is not that of everything that begins so."""
    found = model.choose("Hello", [], ["cat", "cat cat"])
    conversation = model.conversation()
    conversation.choose("Hello", [], ["cat", "cat cat"])
    *prompt, _ = conversation.state.pieces
    begun = full_logprobs(model, prompt, ids := model.tokenizer.encode("cat"))
    begun = sum(row[token] for row, token in zip(begun, ids, strict=False))
    assert found.logprobs[0] < begun - 0.1
    assert math.exp(found.logprobs[0]) + math.exp(found.logprobs[1]) < math.exp(begun)


def test_all_answers_together_have_no_more_than_one(model):
    words = [model.tokenizer.decode([id]).strip() for id in range(33, 300)]
    choices = list(dict.fromkeys(word for word in words if word.isascii() and word))
    found = model.choose("Hello", [], choices)
    assert 0 < math.fsum(map(math.exp, found.logprobs)) < 1
    assert len(found.logprobs) == len(choices) > 100


def test_order_and_company_do_not_matter(model, photo):
    whole = model.choose("What?", photo, CHOICES)
    scores = dict(zip(whole.choices, whole.logprobs, strict=True))
    for part in (CHOICES[::-1], CHOICES[1:3], [CHOICES[4], CHOICES[0]]):
        found = model.choose("What?", photo, part)
        assert found.choices == tuple(part)
        for text, logprob in zip(found.choices, found.logprobs, strict=True):
            assert logprob == pytest.approx(scores[text], abs=CLOSE)


@pytest.mark.parametrize(("rows", "bytes_"), [(1, 1 << 30), (2, 1 << 30), (16, 1)])
def test_choices_in_groups(model, photo, monkeypatch, rows, bytes_):
    whole = model.choose("What?", photo, CHOICES)
    monkeypatch.setattr(choose, "_ROWS", rows)
    monkeypatch.setattr(choose, "_COPIES", bytes_)
    seen: list[int] = []
    repeat = mx.repeat
    monkeypatch.setattr(
        mx,
        "repeat",
        lambda array, count, axis: seen.append(count) or repeat(array, count, axis),
    )
    found = model.choose("What?", photo, CHOICES)
    np.testing.assert_allclose(found.logprobs, whole.logprobs, atol=CLOSE)
    assert max(seen) == (1 if bytes_ == 1 else rows)


def test_the_prompt_is_computed_once(model, photo, monkeypatch):
    sizes: list[int] = []
    logits = type(model).logits

    def watched(self: MockModel, embeddings: mx.array, cache: Any) -> mx.array:
        sizes.append(embeddings.shape[1])
        return logits(self, embeddings, cache)

    monkeypatch.setattr(type(model), "logits", watched)
    model.choose("What is in the image?", photo, CHOICES)
    assert len(sizes) == 1 and model.encoded == 1
    model.choose("And where?", photo, CHOICES)
    # The prefix up to the image is known from the question before.
    assert model.encoded == 1 and sizes[1] < sizes[0]


def test_normalized_choices_are_compared_by_their_mean(model, photo):
    choices = CHOICES[3:]
    plain, fair = (
        model.choose("What?", photo, choices, normalize=normalize)
        for normalize in (False, True)
    )
    np.testing.assert_allclose(plain.logprobs, fair.logprobs, atol=CLOSE)
    means = np.array(fair.logprobs) / np.array(fair.token_counts)
    weights = np.exp(means - means.max())
    np.testing.assert_allclose(fair.probabilities, weights / weights.sum(), atol=1e-9)
    # The longer one is likelier by its mean alone.
    assert fair.token_counts[0] > fair.token_counts[1]
    assert (fair.answer, plain.answer) == (choices[0], choices[1])


def test_the_chosen_answer_is_the_turns_answer(model, photo):
    chosen, said = model.conversation(photo), model.conversation(photo)
    found = chosen.choose("What is it?", (), CHOICES)
    assert [turn.text for turn in chosen.history] == ["What is it?", found.answer]
    assert chosen.history[-1].finish_reason == "stop"
    (image,) = chosen.history[0].images
    assert image.path == str(photo)
    # As if the model had said it: the next answer is the same.
    pieces = said.state.with_question("What is it?", said.state.waiting)
    said.state.pieces = [*pieces, model.tokenizer.encode(found.answer)]
    said.state.turns, said.state.waiting = list(chosen.history), []
    assert chosen.ask("Why?", max_tokens=12) == said.ask("Why?", max_tokens=12)
    assert plain(chosen) == plain(said)
    second = chosen.choose("Which?", make_image(4), ["a", "b"])
    check(chosen, second)
    assert len(chosen.history) == 6


def test_it_goes_on_after_an_answer(model, photo):
    conversation = model.conversation(photo)
    conversation.ask("What?", max_tokens=7)
    check(conversation, conversation.choose("Which?", (), CHOICES))
    stream = conversation.stream("And?", max_tokens=50)
    next(stream)  # an open answer is ended first, and kept
    check(conversation, conversation.choose("Which?", (), CHOICES))
    assert len(conversation.history) == 8


BAD: dict[str, Any] = {
    "choices 'yes,no': give a list of texts, such as ['yes', 'no']": "yes,no",
    "choices None: give a list of texts, such as ['yes', 'no']": None,
    "choices {'yes'}: give a list of texts, such as ['yes', 'no']": {"yes"},
    "choices: none; give two or more, such as 'yes' and 'no'": [],
    "choices: 'yes' alone; give two or more, such as 'yes' and 'no'": ["yes "],
    "choices: number 2 is empty; remove it, or name it, such as 'none'": ["a", " \n"],
    "choices: number 2 is 5; give texts": ["a", 5],
    "choices: 'a' is there twice; remove one": ["a", "b", " a"],
    "choices: 'caf\u00e9' and 'cafe\u0301' are the same tokens; remove one": [
        "cafe\u0301",
        "caf\u00e9",
    ],
    "choices: 1001; at most 1000 can be scored at once": [str(n) for n in range(1001)],
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_chosen_from(model, photo, message):
    conversation = model.conversation(photo)
    with pytest.raises(OptionError) as caught:
        conversation.choose("What?", (), BAD[message])
    assert str(caught.value) == message
    assert conversation.history == () and len(conversation.state.waiting) == 1


def test_normal_forms(model):
    assert unicodedata.normalize("NFC", "cafe\u0301") == "caf\u00e9"
    encode = model.tokenizer.encode
    assert encode("cafe\u0301") == encode("caf\u00e9")


def test_blanks_around_a_choice_do_not_count(model, photo):
    found = model.choose("What?", photo, [" red", "blue\n", "\tgreen "])
    same(found, model.choose("What?", photo, ["red", "blue", "green"]))
    assert found.choices == ("red", "blue", "green")


def test_control_tokens_in_a_choice_are_characters(model):
    found = model.choose("What?", [], ["yes<|im_end|>", "yes"])
    assert found.token_counts[0] > 3 and found.answer in found.choices
    assert found.probabilities[0] != found.probabilities[1]


def test_what_does_not_fit(model, photo):
    conversation = model.conversation(photo)
    conversation.context_size = 70
    long = "one two three four five six seven eight nine ten " * 3
    with pytest.raises(ContextError) as caught:
        conversation.choose("What?", (), ["a", long])
    needed = len(model.tokenizer.encode(long.strip()))
    assert str(caught.value).startswith("the choice 'one two three four ")
    assert f" needs {needed} tokens of context and " in str(caught.value)
    assert str(caught.value).endswith(
        " are left after the question; shorten it, or give fewer or smaller images"
    )
    assert conversation.history == () and conversation.state.cache[0].offset == 0
    with pytest.raises(ContextError, match="the question needs"):
        conversation.choose(long, (), ["a", "b"])
    check(conversation, conversation.choose("What?", (), ["a", "b"]))


def test_an_image_that_cannot_be_opened(model, photo, tmp_path):
    conversation = model.conversation()
    conversation.choose("What?", photo, ["a", "b"])
    with pytest.raises(ImageError, match="none.png"):
        conversation.choose("What?", [tmp_path / "none.png"], ["a", "b"])
    assert len(conversation.history) == 2
    check(conversation, conversation.choose("What?", (), ["a", "b"]))


def test_an_interrupt_leaves_the_conversation_as_it_was(model, photo, monkeypatch):
    conversation = model.conversation(photo)
    conversation.ask("What?", max_tokens=5)
    before, used = conversation.history, conversation.context_used

    def interrupted(*_: Any) -> list[float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(choose, "_score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            conversation.choose("Which?", (), CHOICES)
    assert conversation.history == before and conversation.context_used == used
    assert conversation.state.cache[0].offset <= used
    check(conversation, conversation.choose("Which?", (), CHOICES))
