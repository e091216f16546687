"""A conversation as its user sees it: images, limits, threads, one-off answers."""

import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.errors import (
    CheckpointError,
    ContextError,
    FastVLMError,
    OptionError,
)
from tests.support.mock_model import MockModel, check, make_image, plain


def test_follow_up_reads_only_its_own_tokens(model):
    conversation = Conversation(model, make_image())
    *_, first = conversation.stream("What is it?", max_tokens=9)
    *_, second = conversation.stream("And why?", max_tokens=9)
    assert (first.visual_tokens, first.cached_tokens) == (4, 0)
    assert (second.visual_tokens, second.cached_tokens) == (
        0,
        first.prompt_tokens + first.generation_tokens - 1,
    )
    assert model.encoded == 1
    assert conversation.context_used == second.prompt_tokens + 9


def test_system_prompt(model):
    conversation = Conversation(model, system="Be brief.")
    conversation.ask("Hi", max_tokens=2)
    assert plain(conversation).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    conversation = Conversation(model, system="")
    conversation.ask("Hi", max_tokens=2)
    assert plain(conversation).startswith("<|im_start|>user\nHi")


def test_tiles_and_resolution(model):
    conversation = Conversation(model, make_image(), tiles=(2, 1), resolution=64)
    *_, last = conversation.stream("What is it?", max_tokens=3)
    assert (last.visual_tokens, model.encoded) == (3, 3)
    check(conversation)


def test_grid_pinpoints_choose_the_tiles():
    model = MockModel(grid_pinpoints=((128, 256), (256, 128)))
    conversation = Conversation(model, make_image(0, (80, 30)))
    *_, last = conversation.stream("What is it?", max_tokens=2)
    assert last.visual_tokens == 3 * 4


def test_context_error_comes_before_any_work(model):
    conversation = Conversation(model)
    conversation.context_size = 60
    conversation.ask("Hi", max_tokens=3)
    used, history = conversation.context_used, conversation.history
    model.encoded = 0
    with pytest.raises(ContextError) as caught:
        conversation.ask("What is it? " * 10, make_image())
    needed = str(caught.value).split()[3]
    assert str(caught.value) == (
        f"the question needs {needed} tokens of context and {60 - used} of 60 are"
        " left; shorten the text or what came before it, or give fewer or smaller"
        " images"
    )
    assert int(needed) > 60 - used
    assert model.encoded == 0
    assert (conversation.context_used, conversation.history) == (used, history)
    conversation.reset()
    assert conversation.context_used == 0
    conversation.ask("Hi", max_tokens=3)
    check(conversation)


def test_images_that_do_not_fit_are_refused_at_once(model, monkeypatch):
    small = MockModel(context_length=10)
    with pytest.raises(ContextError, match="needs 65 tokens .* 10 of 10 are left"):
        Conversation(small, make_image(), resolution=512)
    assert small.encoded == 0


def test_answer_is_clipped_to_what_is_left(model):
    conversation = Conversation(model, make_image())
    conversation.context_size = 50
    *_, last = conversation.stream("What is it?", max_tokens=1000)
    assert last.finish_reason == "length"
    assert last.prompt_tokens + last.generation_tokens == 50
    assert conversation.context_used == 50
    with pytest.raises(ContextError, match="0 of 50 are left"):
        conversation.ask("And?")


@pytest.mark.parametrize(
    ("length", "positions", "size"), [(8192, 32768, 8192), (8192, 512, 512)]
)
def test_context_size(model, length, positions, size):
    text = replace(model.config.text, max_position_embeddings=positions)
    assert Conversation(MockModel(context_length=length, text=text)).context_size == (
        size
    )


def test_reset_keeps_the_first_images(model):
    conversation = Conversation(model, make_image())
    first = conversation.ask("What is it?", max_tokens=7)
    conversation.ask("And this?", make_image(2), max_tokens=7)
    conversation.reset()
    assert conversation.history == ()
    assert conversation.ask("What is it?", max_tokens=7) == first
    assert len(conversation.history[0].images) == 1
    check(conversation)


def test_one_answer_at_a_time(model):
    conversation = Conversation(model)
    stream = conversation.stream("Hi", max_tokens=9)
    faults = []

    def inside():
        logits = type(model).logits

        def slow(*arguments):
            try:
                conversation.ask("Me too")
            except FastVLMError as fault:
                faults.append(str(fault))
            return logits(*arguments)

        type(model).logits = slow
        try:
            next(stream)
        finally:
            type(model).logits = logits

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert faults and set(faults) == {
        "this conversation is still answering; wait for the answer, or start another"
        " conversation"
    }
    stream.close()
    check(conversation)


def test_conversations_share_a_model_across_threads(model):
    def talk(seed: int) -> list[str]:
        conversation = Conversation(model, make_image(seed))
        return [
            conversation.ask(text, max_tokens=9, temperature=0.8, seed=seed)
            for text in ("What is it?", "And why?")
        ]

    expected = {seed: talk(seed) for seed in range(3)}
    model.feature_cache.clear()
    said: dict[int, list[str]] = {}

    def run(seed: int):
        said[seed] = talk(seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == expected


def test_stages_are_measured_on_request(model, photo):
    *_, quick = Conversation(model).stream("What is it?", photo, max_tokens=2)
    known = [name for name, value in asdict(quick.timings).items() if value]
    assert known == ["decode", "preprocess"]
    model.feature_cache.clear()
    *_, slow = Conversation(model).stream("Hm?", photo, max_tokens=2, detailed=True)
    stages = asdict(slow.timings)
    assert all(stages.values())
    assert sum(stages.values()) <= slow.ttft


def test_one_question(model, photo):
    text = Conversation(model, photo).ask("What is it?", max_tokens=5)
    chunks = model.stream("What is it?", str(photo), max_tokens=5)
    assert "".join(chunk.text for chunk in chunks) == text
    assert model.ask("What is it?", [photo], max_tokens=5) == text
    assert model.conversation(photo).ask("What is it?", max_tokens=5) == text
    with pytest.raises(OptionError, match="tiles 0x2"):
        model.stream("Hm?", photo, tiles=(0, 2))
    with pytest.raises(OptionError, match="temperature -1"):
        Conversation(model).stream("Hm?", temperature=-1)


def test_without_an_encoder():
    model = MockModel()
    model.config = type(model.config)(text=model.config.text)
    assert Conversation(model).ask("Hi", max_tokens=2)
    with pytest.raises(CheckpointError, match="no vision encoder; convert it"):
        Conversation(model, make_image())


def test_reference_conversation(reference: Path, images: Path):
    """The same over a checkpoint of a real layout."""
    from fastvlm_mlx.fastvlm import load

    model = load(reference / "llava-mini")
    attachments = [images / name for name in ("astronaut.png", "coins.png")]
    conversation = model.conversation(attachments[:1])
    conversation.ask("Describe the image.", max_tokens=12)
    check(conversation)
    conversation.ask("And this one?", attachments[1], max_tokens=12)
    check(conversation)
    conversation.ask("Compare them.", max_tokens=12)
    check(conversation)
