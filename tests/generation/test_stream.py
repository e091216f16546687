"""The stream of chunks: what it says, what it leaves in the cache, when it ends."""

import dataclasses
import threading
from typing import Any, cast

import mlx.core as mx
import pytest

from fastvlm_mlx import device
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import Chunk, Timings, stream_generate
from fastvlm_mlx.model import language
from tests.support.mock_model import HIDDEN, VOCABULARY, ScriptedModel, greedy, sample

# Positions that the cache lacks of what was read: on a GPU a step runs ahead.
BEHIND = int(not device.on_gpu())


def start(model: ScriptedModel, **options: Any):
    options = {"max_tokens": 50, **options}
    cancel = options.pop("cancel", None)
    return stream_generate(
        cast(FastVLM, model),
        mx.zeros((1, model.prompt, 4)),
        model.cache,
        Sampling(**options),
        cancel=cancel,
    )


def scripted(text: str, stop: bool = True) -> ScriptedModel:
    model = ScriptedModel([])
    ids = model.tokenizer.encode(text)
    end = model.tokenizer.id("<|im_end|>")
    model.language_model.script = [*ids, cast(int, end)] if stop else ids
    return model


def said(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_answer_ends_at_the_stop_token():
    model = scripted("It is a cat.")
    chunks = list(start(model))
    assert said(chunks) == "It is a cat."
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert (last.finish_reason, last.token, last.text) == ("stop", None, "")
    assert last.generation_tokens == len(chunks) - 1
    assert model.cache[0].offset == model.prompt + last.generation_tokens


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>"])
def test_both_stop_tokens_end_an_answer(stop):
    model = scripted("cat", stop=False)
    model.language_model.script += [cast(int, model.tokenizer.id(stop)), 5, 5]
    assert said(list(start(model))) == "cat"


def test_stop_tokens_can_be_ignored():
    model = scripted("It is")
    chunks = list(start(model, max_tokens=9, ignore_eos=True))
    assert said(chunks) == "It is"
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].generation_tokens == 9


def test_numbers_of_a_chunk():
    model = scripted("one two three")
    chunks = list(start(model))
    assert dataclasses.is_dataclass(chunks[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunks[0].text = ""  # type: ignore
    assert {chunk.prompt_tokens for chunk in chunks} == {3}
    assert {chunk.cached_tokens for chunk in chunks} == {0}
    assert len({chunk.ttft for chunk in chunks}) == 1 and chunks[0].ttft > 0
    assert len({chunk.prompt_tps for chunk in chunks}) == 1
    assert chunks[0].prompt_tps > 3 / chunks[0].ttft
    assert chunks[0].generation_tps == 0 < chunks[-1].generation_tps
    assert chunks[0].peak_memory > 0
    assert chunks[0].timings == Timings()


def test_max_tokens_ends_an_answer():
    model = scripted("one two three four five")
    chunks = list(start(model, max_tokens=2))
    assert len(chunks) == 2 and chunks[-1].finish_reason == "length"
    # The last token was never fed.
    assert model.cache[0].offset == model.prompt + 1


@pytest.mark.parametrize(
    "text", ["naïve café", "中文:请描述这张图片。", "emoji 👩‍👩‍👧 and more", "ü"]
)
def test_characters_never_break(text):
    chunks = list(start(scripted(text)))
    assert said(chunks) == text
    assert not any("\ufffd" in chunk.text for chunk in chunks)
    assert any(chunk.text == "" for chunk in chunks)


def test_half_a_character_at_the_end_is_shown_as_such():
    model = scripted("ab中", stop=False)
    model.language_model.script[-1] = cast(int, model.tokenizer.id("<|im_end|>"))
    assert said(list(start(model))) == "ab\ufffd"


def test_padded_ids_decode_to_nothing():
    model = scripted("cat")
    model.language_model.script.insert(0, VOCABULARY - 1)
    chunks = list(start(model))
    assert said(chunks) == "cat"
    assert chunks[0].token == VOCABULARY - 1 and chunks[0].text == ""


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (["three"], "one two "),
        (["o th"], "one tw"),
        ("two", "one "),
        (["never"], "one two three, four"),
        (["four!", "our"], "one two three, f"),
        (["three, fives", "fourteen"], "one two three, four"),
        (["one"], ""),
        (["e, f", "three"], "one two "),
    ],
)
def test_stop_texts(stop, shown):
    model = scripted("one two three, four")
    chunks = list(start(model, stop=stop))
    assert said(chunks) == shown
    assert chunks[-1].finish_reason == "stop"


def test_no_part_of_a_stop_text_is_ever_shown():
    text = "a END, EN and END."
    for chunk in start(scripted(text), stop=["END."]):
        assert "END." not in chunk.text
    chunks = list(start(scripted(text), stop=["END."]))
    assert said(chunks) == "a END, EN and "
    # What could have been the beginning is shown as soon as it is not.
    assert said(list(start(scripted("the EN"), stop=["END"]))) == "the EN"
    cut = list(start(scripted("the END", stop=False), stop=["ENDING"], max_tokens=9))
    assert said(cut).startswith("the END")


@pytest.mark.parametrize("shown", [1, 2, 3])
def test_closing_early_leaves_the_cache_with_what_was_shown(shown):
    model = scripted("one two three four five six")
    stream = start(model)
    for _ in range(shown):
        next(stream)
    taken = model.prompt + shown - BEHIND
    assert model.cache[0].offset == taken
    stream.close()
    assert {layer.offset for layer in model.cache} == {taken}


def test_an_unstarted_stream_does_nothing():
    model = scripted("one")
    start(model).close()
    assert model.cache[0].offset == 0


def test_cancel_ends_with_a_chunk():
    model, cancel = scripted("one two three four"), threading.Event()
    stream = start(model, cancel=cancel)
    next(stream)
    cancel.set()
    assert next(stream).finish_reason == "cancelled"
    assert next(stream, None) is None
    assert model.cache[0].offset == model.prompt + 2 - BEHIND


def test_an_interrupt_inside_a_step_empties_the_cache(monkeypatch):
    model = scripted("one two three four")
    stream = start(model)
    next(stream)

    def interrupted(*_):
        model.cache[0].update_and_fetch(mx.ones((1, 1, 1, 4)), mx.ones((1, 1, 1, 4)))
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert {layer.offset for layer in model.cache} == {0}
    assert model.cache[0].keys is None


def test_next_token_is_under_way_on_a_gpu_while_the_last_is_shown():
    model = scripted("one two three four")
    stream = start(model)
    next(stream)
    # There the first answer token is in the cache before anybody asked for a second;
    # on a CPU nobody waits for that.
    assert model.cache[0].offset == model.prompt + 1 - BEHIND


def test_long_prompts_go_in_pieces(model, monkeypatch):
    embeddings = mx.random.normal((1, 50, HIDDEN), key=mx.random.key(1))

    def answer():
        cache = language.make_cache(model.language_model)
        stream = stream_generate(model, embeddings, cache, Sampling(max_tokens=8))
        return [chunk.token for chunk in stream], cache[0].offset

    whole = answer()
    lengths = []
    logits = type(model).logits

    def watched(self, inputs, cache):
        lengths.append(inputs.shape[1])
        return logits(self, inputs, cache)

    monkeypatch.setattr(type(model), "logits", watched)
    monkeypatch.setattr(decode, "PREFILL_STEP", 16)
    assert answer() == whole
    assert lengths[:5] == [16, 16, 16, 2, 1]


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("pieces", [1, 2])
def test_prompts_about_as_long_as_a_piece(model, monkeypatch, pieces, more):
    monkeypatch.setattr(decode, "PREFILL_STEP", 256)  # as 512, in less time
    length = pieces * decode.PREFILL_STEP + more
    embeddings = mx.random.normal((1, length, HIDDEN), key=mx.random.key(1))
    lengths: list[int] = []
    logits = type(model).logits

    def watched(self, inputs, cache):
        lengths.append(inputs.shape[1])
        return logits(self, inputs, cache)

    def answer() -> list[int | None]:
        cache = language.make_cache(model.language_model)
        stream = stream_generate(model, embeddings, cache, Sampling(max_tokens=3))
        return [chunk.token for chunk in stream]

    monkeypatch.setattr(type(model), "logits", watched)
    said = answer()
    prefilled = lengths[:-2]
    assert sum(prefilled) == length and 0 < prefilled[-1] <= 256
    assert prefilled[:-1] == [256] * (len(prefilled) - 1)
    assert len(prefilled) == pieces + (more > 0)
    monkeypatch.setattr(decode, "PREFILL_STEP", 10**6)
    assert answer() == said


def test_greedy_is_the_bare_argmax(model):
    ids = [10, 20, 30]
    cache = language.make_cache(model.language_model)
    stream = stream_generate(model, model.embed([ids]), cache, Sampling(max_tokens=12))
    shown = [chunk.token for chunk in stream]
    assert shown == greedy(model, [ids], 12)
    assert len(set(shown)) > 3


def test_repetition_penalty_stops_repeating():
    model = scripted("x")
    model.language_model.script = [40]
    assert {chunk.token for chunk in start(model, max_tokens=6)} == {40}
    shown = [
        chunk.token for chunk in start(model, max_tokens=6, repetition_penalty=1e9)
    ]
    assert shown[0] == 40 != shown[1]


@pytest.mark.parametrize("temperature", [0, 1])
def test_any_thread_may_take_the_next_chunk(model, temperature):
    options = {"temperature": temperature, "repetition_penalty": 1.1, "seed": 3}
    expected = sample(model, **options)
    cache = language.make_cache(model.language_model)
    sampling = Sampling(max_tokens=12, **options)
    embeddings = model.embed([[10, 20, 30]])
    mx.eval(embeddings)
    stream = stream_generate(model, embeddings, cache, sampling)
    shown = []
    for _ in range(12):
        thread = threading.Thread(target=lambda: shown.append(next(stream).token))
        thread.start()
        thread.join()
    assert shown == expected
