"""Log-probabilities are those of a forward pass without cache; they cover the text."""

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation.batch import batch_generate
from fastvlm_mlx.generation.constrained import JSONConstraint
from fastvlm_mlx.generation.logprobs import LogprobRecorder, TokenLogprob
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import Chunk, stream_generate
from fastvlm_mlx.model import language
from tests.support.full_pass import full_logprobs
from tests.support.mock_model import MockModel
from tests.support.paths import ROOT

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["photo", "drawing"]}, "n": {"type": "integer"}},
    "required": ["kind", "n"],
}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    return load("demo", dtype="float32")


def listed(chunks: list[Chunk]) -> list[TokenLogprob]:
    return [entry for chunk in chunks for entry in chunk.logprobs or ()]


def answer(model: FastVLM, prompt: list[int], **options: Any) -> list[Chunk]:
    cache = language.make_cache(model.language_model)
    top = options.pop("top", 5)
    constraint = options.pop("constraint", None)
    options = {"max_tokens": 12, **options}
    stream = stream_generate(
        model,
        model.embed([prompt]),
        cache,
        Sampling(**options),
        constraint=constraint,
        top_logprobs=top,
    )
    return list(stream)


def check(entries: list[TokenLogprob], wanted: np.ndarray, top: int) -> None:
    """Against the rows of `wanted`, (L, vocab), one for each entry."""
    for entry, row in zip(entries, wanted, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token], abs=CLOSE)
        values = [other.logprob for other in entry.top]
        assert values == sorted(values, reverse=True)
        assert len({other.token for other in entry.top}) == len(values) == top
        np.testing.assert_allclose(values, np.sort(row)[::-1][:top], atol=CLOSE)
        for other in entry.top:
            assert other.logprob == pytest.approx(row[other.token], abs=CLOSE)
            assert other.top == ()


@pytest.mark.parametrize("image", ["beach", "crowd", "word", None])
@pytest.mark.parametrize("question", ["Describe the image.", "What shape is red?"])
def test_they_are_those_of_a_full_forward_pass(demo, image, question):
    images = [] if image is None else [ROOT / "examples" / f"{image}.png"]
    chat = demo.conversation(images)
    chunks = list(chat.stream(question, max_tokens=24, top_logprobs=7))
    entries = listed(chunks)
    answered = list(chat.history[-1].tokens)
    assert [entry.token for entry in entries] == answered and answered
    *prompt, _ = chat.state.pieces
    wanted = full_logprobs(demo, prompt, answered)
    np.testing.assert_allclose(np.exp(wanted).sum(-1), 1, atol=1e-5)
    check(entries, wanted[:-1], 7)
    assert all(entry.top[0].token == entry.token for entry in entries)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.4, "seed": 3},
        {"temperature": 0.7, "seed": 4, "top_p": 0.5, "top_k": 9, "min_p": 0.01},
        {"repetition_penalty": 1.8},
        {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.3},
    ],
)
def test_how_a_token_is_drawn_does_not_change_them(model, options):
    prompt = [10, 20, 30]
    plain = answer(model, prompt, **options, top=4)
    entries = listed(plain)
    tokens = [entry.token for entry in entries]
    wanted = full_logprobs(model, [prompt], tokens)
    check(entries, wanted[: len(tokens)], 4)
    # And asking for them does not change the answer.
    cache = language.make_cache(model.language_model)
    sampling = Sampling(max_tokens=12, **options)
    silent = list(stream_generate(model, model.embed([prompt]), cache, sampling))
    assert [chunk.token for chunk in silent] == [chunk.token for chunk in plain]
    assert {chunk.logprobs for chunk in silent} == {None}


@pytest.mark.parametrize("temperature", [0, 1.2])
@pytest.mark.parametrize("schema", [SCHEMA, None])
def test_beside_a_schema_they_are_of_the_allowed_tokens(model, temperature, schema):
    prompt, top = [40, 50, 60], 6
    constraint = JSONConstraint(model, schema)
    options = {"temperature": temperature, "seed": 1, "repetition_penalty": 1.2}
    chunks = answer(
        model, prompt, max_tokens=30, constraint=constraint, top=top, **options
    )
    entries = listed(chunks)
    tokens = [entry.token for entry in entries]
    logits = full_logprobs(model, [prompt], tokens)
    follow = JSONConstraint(model, schema)._matcher
    for entry, row in zip(entries, logits, strict=False):
        words = np.frombuffer(follow.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(words, bitorder="little")[: len(row)].astype(bool)
        assert allowed[entry.token]
        row = np.where(allowed, row, -np.inf)
        row = row - np.log(np.exp(row).sum())
        assert entry.logprob == pytest.approx(row[entry.token], abs=CLOSE)
        assert len(entry.top) == min(top, allowed.sum())
        for other in entry.top:
            assert allowed[other.token]
            assert other.logprob == pytest.approx(row[other.token], abs=CLOSE)
        follow.consume_token(entry.token)
    text = "".join(chunk.text for chunk in chunks)
    assert b"".join(entry.utf8 or b"" for entry in entries).decode() == text


def test_a_schema_that_is_cut_short_has_them_for_the_forced_end(model):
    constraint = JSONConstraint(model, {"type": "array", "items": {"type": "string"}})
    chunks = answer(model, [9, 9, 9], max_tokens=7, constraint=constraint, top=3)
    entries = listed(chunks)
    assert len(entries) == chunks[-1].generation_tokens > 2
    assert all(-np.inf < entry.logprob <= 0 for entry in entries)


def test_texts_and_bytes(model):
    chunks = answer(model, [300, 2, 7], temperature=1.5, seed=11, max_tokens=60)
    entries = listed(chunks)
    text = "".join(chunk.text for chunk in chunks)
    whole = b"".join(entry.utf8 or b"" for entry in entries)
    assert whole.decode("utf-8", "replace") == text
    halves = [entry for entry in entries if "\ufffd" in entry.text]
    assert halves and all(entry.utf8 for entry in halves)
    for entry in entries:
        if entry.utf8:
            assert entry.text == entry.utf8.decode("utf-8", "replace")


def test_a_control_token_is_listed_by_its_name(demo):
    question, image = "What shape is red?", ROOT / "examples/beach.png"
    ended = list(demo.stream(question, image, top_logprobs=2))
    assert ended[-1].finish_reason == "stop" and ended[-1].logprobs == ()
    size = ended[-1].generation_tokens + 1
    chunks = list(
        demo.stream(question, image, top_logprobs=2, ignore_eos=True, max_tokens=size)
    )
    *entries, end = listed(chunks)
    assert [each.text for each in entries] == [each.text for each in listed(ended)]
    assert (end.text, end.utf8) == ("<|im_end|>", None)
    assert (end.top[0].text, end.top[0].utf8) == ("<|im_end|>", None)


def test_half_a_character_waits_for_the_other_half(model):
    for chunk in answer(model, [300, 2, 7], temperature=1.5, seed=11, max_tokens=60):
        assert chunk.logprobs is not None
        assert bool(chunk.text) == bool(chunk.logprobs) or chunk.finish_reason


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_a_stop_sequence_takes_its_tokens_away(model, length):
    whole = answer(model, [10, 20, 30], max_tokens=20)
    text = "".join(chunk.text for chunk in whole)
    for start in range(3, 12):
        stop = text[start : start + length]
        cut = answer(model, [10, 20, 30], max_tokens=20, stop=[stop])
        shown = "".join(chunk.text for chunk in cut)
        assert shown == text[: text.index(stop)]
        entries = listed(cut)
        assert entries == listed(whole)[: len(entries)]
        spelled = b"".join(entry.utf8 or b"" for entry in entries)
        # The last token may be one that the stop sequence cut in two.
        assert spelled.startswith(shown.encode().removesuffix("\ufffd".encode()))
        without = b"".join(entry.utf8 or b"" for entry in entries[:-1])
        assert len(without.decode("utf-8", "ignore")) <= len(shown)
        for chunk in cut:
            assert bool(chunk.logprobs) <= bool(chunk.text)


def test_text_that_is_held_back_in_vain_comes_with_its_tokens(model):
    whole = answer(model, [10, 20, 30], max_tokens=20)
    text = "".join(chunk.text for chunk in whole)
    held = answer(model, [10, 20, 30], max_tokens=20, stop=[text[4:12] + "\x00"])
    assert "".join(chunk.text for chunk in held) == text
    assert listed(held) == listed(whole)
    counts = [len(chunk.logprobs or ()) for chunk in held]
    assert 0 in counts and max(counts) > 1


def test_tokens_of_equal_probability(model):
    """The chosen one is first, whatever other ones the partition found."""

    class Flat(MockModel):
        def logits(self, embeddings: mx.array, cache: Any) -> mx.array:
            return mx.zeros_like(super().logits(embeddings, cache))

    chunks = answer(Flat(), [10, 20], max_tokens=3, top=2, ignore_eos=True)
    entries = listed(chunks)
    assert len(entries) == 3
    for entry in entries:
        assert entry.top[0].token == entry.token and len(entry.top) == 2
        assert entry.logprob == pytest.approx(-np.log(1600), abs=1e-5)


def test_nothing_is_computed_unless_asked(model, monkeypatch):
    def unwanted(*_: Any, **__: Any) -> mx.array:
        raise AssertionError("computed in vain")

    for name in ("logsumexp", "argpartition"):
        monkeypatch.setattr(mx, name, unwanted)
    assert answer(model, [10, 20, 30], top=None)
    with pytest.raises(AssertionError, match="in vain"):
        answer(model, [10, 20, 30], top=0)


def test_sentencepieces_first_space_is_no_part_of_the_text(vicuna):
    ids = vicuna.encode("cat dog")
    assert vicuna.token_bytes(ids[0]).startswith(b" ")
    recorder, waiting = LogprobRecorder(vicuna, 1), iter(ids)
    choose = recorder.watch(lambda logits: mx.array([next(waiting)]))
    for token in ids:
        choose((mx.arange(len(vicuna)) == token)[None] * 9.0)
    entries = [recorder.pop()[0] for _ in ids]
    assert b"".join(entry.utf8 or b"" for entry in entries) == b"cat dog"
    assert [entry.top[0].utf8 for entry in entries] == [e.utf8 for e in entries]


def test_none_of_the_likeliest(model):
    entries = listed(answer(model, [10, 20, 30], top=0))
    assert len(entries) == 12 and {entry.top for entry in entries} == {()}
    with_top = listed(answer(model, [10, 20, 30], top=2))
    assert entries == [dataclasses.replace(entry, top=()) for entry in with_top]


@pytest.mark.parametrize("top", [-1, 21, 2.0, True, "3"])
def test_what_cannot_be_honoured(model, top):
    for ask in (model.stream, model.conversation().stream):
        with pytest.raises(OptionError) as caught:
            ask("Hello", top_logprobs=top)
        assert str(caught.value) == (
            f"top_logprobs {top!r}: must be a whole number at least 0, at most 20;"
            " None is off"
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.4},
        {"stop": ["e", "a"]},
        {"schema": SCHEMA, "max_tokens": 30},
    ],
)
def test_a_batch_gives_what_each_row_gives_alone(model, options):
    prompts = [[10, 20, 30], [40, 50, 60], [10, 20, 31], [300, 2, 7]]
    options = {"max_tokens": 14, **options}
    schema = options.pop("schema", None)

    def rule() -> JSONConstraint | None:
        return JSONConstraint(model, schema) if schema else None

    together = batch_generate(
        model,
        mx.concatenate([model.embed([prompt]) for prompt in prompts]),
        Sampling(**options),
        constraints=[JSONConstraint(model, schema) for _ in prompts] if schema else [],
        top_logprobs=3,
    )
    for prompt, completion in zip(prompts, together, strict=True):
        alone = listed(answer(model, prompt, top=3, constraint=rule(), **options))
        given = completion.logprobs or ()
        assert alone and [one.token for one in given] == [one.token for one in alone]
        for one, other in zip(given, alone, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=CLOSE)
            assert [t.token for t in one.top] == [t.token for t in other.top]


def test_a_batch_says_nothing_unless_asked(model):
    (row,) = batch_generate(model, model.embed([[1, 2]]), Sampling(max_tokens=2))
    assert row.logprobs is None
