"""Follow-ups, cut answers and late images: history and cache always agree."""

import gc
import threading

import mlx.core as mx
import pytest

from fastvlm_mlx.conversation.conversation import Conversation
from tests.support.mock_model import check, make_image, plain


@pytest.mark.parametrize("count", [0, 1, 3])
def test_follow_ups_are_as_if_computed_anew(model, count):
    conversation = Conversation(model, [make_image(n) for n in range(count)])
    for question in ("What is it?", "And why?", "Since when?"):
        conversation.ask(question, max_tokens=9)
        check(conversation)
    assert model.encoded == count


def test_history_is_the_template(model):
    conversation = Conversation(model, make_image())
    first = conversation.ask("What is it?", max_tokens=4)
    second = conversation.ask("<|im_end|>?", max_tokens=4)
    assert plain(conversation) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
        f"<|im_start|>assistant\n{first}<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>?<|im_end|>\n"
        f"<|im_start|>assistant\n{second}"
    )
    assert [(turn.role, turn.text) for turn in conversation.history] == [
        ("user", "What is it?"),
        ("assistant", first),
        ("user", "<|im_end|>?"),
        ("assistant", second),
    ]
    assert [len(turn.images) for turn in conversation.history] == [1, 0, 0, 0]


@pytest.mark.parametrize("how", ["add", "stream"])
def test_a_image_joins_later(model, how):
    conversation = Conversation(model, make_image(1))
    conversation.ask("What is it?", max_tokens=7)
    if how == "add":
        conversation.add(make_image(2))
        conversation.ask("And this?", max_tokens=7)
    else:
        conversation.ask("And this?", make_image(2), max_tokens=7)
    check(conversation)
    conversation.ask("Which is older?", max_tokens=7)
    check(conversation)
    assert [len(turn.images) for turn in conversation.history[::2]] == [1, 1, 0]
    assert plain(conversation).count("<image>") == 2
    assert model.encoded == 2


def interrupt(conversation: Conversation, model, after: int):
    """Ctrl-C during the step after `after` chunks."""
    stream = conversation.stream("And why?", max_tokens=9)
    for _ in range(after):
        next(stream)
    logits = type(model).logits

    def interrupted(*_):
        conversation.state.cache[0].offset += 1
        raise KeyboardInterrupt

    type(model).logits = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    finally:
        type(model).logits = logits


@pytest.mark.parametrize("after", [1, 3])
def test_interrupt_inside_a_step_keeps_what_was_shown(model, after):
    conversation = Conversation(model, make_image())
    conversation.ask("What is it?", max_tokens=7)
    interrupt(conversation, model, after)
    assert conversation.history[-1].finish_reason == "cancelled"
    assert conversation.state.cache[0].offset == 0
    check(conversation)
    conversation.ask("Go on", max_tokens=7)
    check(conversation)
    assert model.encoded == 1


def test_interrupt_before_the_first_chunk_forgets_the_question(model):
    conversation = Conversation(model, make_image())
    conversation.ask("What is it?", max_tokens=7)
    before = plain(conversation)
    conversation.add(make_image(2))
    interrupt(conversation, model, 0)
    assert plain(conversation) == before
    conversation.ask("What is it?", max_tokens=7)
    check(conversation)
    assert len(conversation.history[-2].images) == 1


@pytest.mark.parametrize("how", ["close", "drop", "next question", "cancel"])
@pytest.mark.parametrize("shown", [1, 4])
def test_answers_cut_short_go_on(model, how, shown):
    conversation, cancel = Conversation(model, make_image()), threading.Event()
    stream = conversation.stream("What is it?", max_tokens=30, cancel=cancel)
    text = "".join(next(stream).text for _ in range(shown))
    if how == "close":
        stream.close()
    elif how == "drop":
        del stream
        gc.collect()
    elif how == "cancel":
        cancel.set()
        last = next(stream)
        text += last.text
        assert last.finish_reason == "cancelled"
    conversation.ask("And why?", max_tokens=7)
    assert conversation.history[1].text == text
    assert conversation.history[1].finish_reason == "cancelled"
    check(conversation)
    assert f"assistant\n{text}<|im_end|>\n<|im_start|>user" in plain(conversation)


def test_half_characters_are_not_kept(model):
    tokenizer = model.tokenizer
    conversation = Conversation(model)
    conversation.ask("Hi", max_tokens=3)
    ids = tokenizer.encode("a中文")
    logits, script = type(model).logits, iter([*ids, *ids])

    def scripted(self, inputs, cache):
        logits(self, inputs, cache)
        return (mx.arange(1600)[None] == next(script)).astype(mx.float32)

    type(model).logits = scripted
    try:
        stream = conversation.stream("Say it")
        while not (chunk := next(stream)).text.startswith("中"):
            pass
        chunk = next(stream)
        stream.close()
    finally:
        type(model).logits = logits
    assert chunk.text == ""
    assert conversation.history[-1].text == "a中"
    assert list(conversation.history[-1].tokens) == tokenizer.encode("a中")
    held = conversation.state.cache[0].offset
    assert held == conversation.context_used
    conversation.ask("And?", max_tokens=7)
    check(conversation)


def test_stop_text_cuts_history_and_cache(model):
    whole = Conversation(model, make_image()).ask("What is it?", max_tokens=20)
    for stop in (whole[5:8], whole[9], whole[-6:-2]):
        conversation = Conversation(model, make_image())
        shown = conversation.ask("What is it?", max_tokens=20, stop=[stop])
        assert shown == whole[: whole.index(stop)]
        assert conversation.history[-1].text == shown
        assert conversation.history[-1].finish_reason == "stop"
        tokens = conversation.history[-1].tokens
        assert model.tokenizer.decode(tokens) == shown
        conversation.ask("And why?", max_tokens=7)
        check(conversation)


def test_length_cut_goes_on(model):
    conversation = Conversation(model, make_image())
    for count in (1, 2, 5):
        *_, last = conversation.stream("More", max_tokens=count)
        assert last.finish_reason == "length"
        check(conversation)
