"""`BatchDecoder`: rows join and leave between steps, each as it would be alone."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx import device
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.batch_decoder import BatchDecoder, Row, Step
from fastvlm_mlx.generation.constrained import JSONConstraint
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import stream_generate
from fastvlm_mlx.model import language
from fastvlm_mlx.model.rows_cache import rows_cache
from tests.support.mock_model import MockModel

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PROMPTS = [[10, 20, 30], list(range(40, 71)), [9], [300, 2, 7, 7, 1]]
SAMPLINGS = [
    Sampling(max_tokens=14),
    Sampling(max_tokens=9, temperature=0.9, seed=5, top_p=0.9),
    Sampling(max_tokens=12, repetition_penalty=1.4),
    Sampling(max_tokens=11, stop=["e", "a"]),
]


def alone(
    model: MockModel, prompt: Sequence[int], sampling: Sampling, **options: Any
) -> list[Any]:
    """The token, text, logprobs and end of each chunk."""
    cache = language.make_cache(model.language_model)
    embeddings = model.embed([list(prompt)])
    chunks = stream_generate(model, embeddings, cache, sampling, **options)
    return [(c.token, c.text, c.logprobs, c.finish_reason) for c in chunks]


def joined(
    model: MockModel,
    decoder: BatchDecoder,
    prompt: Sequence[int],
    sampling: Sampling,
    *options: Any,
) -> Row:
    cache = language.make_cache(model.language_model)
    row = Row(model, cache, sampling, *options)
    embeddings = model.embed([list(prompt)])
    decoder.join([row], decode.whole(decoder.prefill([row], embeddings)))
    return row


def parts(steps: Sequence[Step]) -> list[Any]:
    return [(s.token, s.text, s.logprobs, s.finish_reason) for s in steps]


def test_rows_join_at_any_time_and_are_what_they_are_alone(model):
    decoder, rows = BatchDecoder(model), []
    steps: list[list[Step]] = [[] for _ in PROMPTS]
    while True:
        if len(rows) < len(PROMPTS):  # another one after every step
            at = len(rows)
            rows.append(joined(model, decoder, PROMPTS[at], SAMPLINGS[at]))
        going = [
            at
            for at in range(len(rows))
            if not steps[at] or steps[at][-1].finish_reason is None
        ]
        if not going:
            break
        for at in going:
            steps[at].append(decoder.next(rows[at]))
            assert len(rows[at].steps) == 0  # nothing is stored up
    for at, prompt in enumerate(PROMPTS):
        assert parts(steps[at]) == alone(model, prompt, SAMPLINGS[at])
    assert len(decoder) == 0
    assert len({len(each) for each in steps}) > 2


def test_the_caches_of_rows_are_what_they_are_alone(model):
    """To the bit, whatever stands beside them: nothing is padded or copied."""
    decoder = BatchDecoder(model)
    rows = [joined(model, decoder, prompt, Sampling()) for prompt in PROMPTS]
    for _ in range(4):
        for row in rows:
            decoder.next(row)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        decoder.remove(row, len(prompt) + 3)
        assert {layer.offset for layer in row.cache.layers} == {len(prompt) + 3}
        cache = language.make_cache(model.language_model)
        stream = stream_generate(model, model.embed([prompt]), cache, Sampling())
        for _ in range(4):
            next(stream)
        stream.close()
        for mine, its in zip(row.cache.layers, cache, strict=True):
            end = len(prompt) + 3
            assert mx.allclose(
                mine.keys[..., :end, :], its.keys[..., :end, :], rtol=1e-5, atol=1e-6
            )


def test_a_row_that_is_removed_leaves_the_others_alone(model):
    decoder = BatchDecoder(model)
    first = joined(model, decoder, PROMPTS[0], SAMPLINGS[0])
    second = joined(model, decoder, PROMPTS[1], SAMPLINGS[0])
    steps = [decoder.next(second)]
    decoder.next(first)
    decoder.remove(first, len(PROMPTS[0]) + 1)
    taken = len(PROMPTS[0]) + device.on_gpu()  # there a step runs ahead
    assert first.cache.layers[0].offset == taken
    while steps[-1].finish_reason is None:
        steps.append(decoder.next(second))
    assert parts(steps) == alone(model, PROMPTS[1], SAMPLINGS[0])


def test_each_row_has_its_own_constraint_and_logprobs(model):
    decoder, sampling = BatchDecoder(model), Sampling(max_tokens=30)
    options = [(JSONConstraint(model, SCHEMA), None), (None, 3), (None, None)]
    rows = [
        joined(model, decoder, prompt, sampling, *each)
        for prompt, each in zip(PROMPTS, options, strict=False)
    ]
    steps: list[list[Step]] = [[] for _ in rows]
    for each, row in zip(steps, rows, strict=True):
        while not each or each[-1].finish_reason is None:
            each.append(decoder.next(row))
    constraint = JSONConstraint(model, SCHEMA)
    assert parts(steps[0]) == alone(model, PROMPTS[0], sampling, constraint=constraint)
    assert parts(steps[2]) == alone(model, PROMPTS[2], sampling)
    wanted = alone(model, PROMPTS[1], sampling, top_logprobs=3)
    found = parts(steps[1])
    assert [each[:2] for each in found] == [each[:2] for each in wanted]
    for (*_, mine, _), (*_, its, _) in zip(found, wanted, strict=True):
        assert [each.token for each in mine] == [each.token for each in its]
        for one, other in zip(mine, its, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert len(one.top) == 3


def test_a_constraint_that_fails_ends_its_row_alone(model):
    decoder = BatchDecoder(model)
    good = joined(model, decoder, PROMPTS[0], Sampling(max_tokens=5))
    short = Sampling(max_tokens=1)
    bad = joined(model, decoder, PROMPTS[1], short, JSONConstraint(model, SCHEMA))
    with pytest.raises(OptionError, match="max_tokens 1: too few for JSON"):
        decoder.next(bad)
    decoder.remove(bad, 0)
    steps = [decoder.next(good) for _ in range(5)]
    assert parts(steps) == alone(model, PROMPTS[0], Sampling(max_tokens=5))


def test_a_step_that_is_interrupted_ends_all_rows(model, monkeypatch):
    decoder = BatchDecoder(model)
    rows = [joined(model, decoder, prompt, Sampling()) for prompt in PROMPTS[:2]]
    for row in rows:
        decoder.next(row)

    def interrupted(*_: Any):
        rows[0].cache.layers[0].update_and_fetch(
            mx.ones((1, 2, 1, 8)), mx.ones((1, 2, 1, 8))
        )
        raise MemoryError

    monkeypatch.setattr(model, "logits", interrupted)
    for row in rows:
        with pytest.raises(MemoryError):
            decoder.next(row)
        decoder.remove(row, 5)
        assert row.cache.layers[0].offset == 0
    assert len(decoder) == 0


def test_a_long_prompt_pauses_between_its_parts(model, monkeypatch):
    monkeypatch.setattr(decode, "PREFILL_STEP", 16)
    decoder = BatchDecoder(model)
    prompt = list(range(10, 60))
    row = Row(model, language.make_cache(model.language_model), Sampling(max_tokens=4))
    pauses = decoder.prefill([row], model.embed([prompt]))
    assert [row.cache.cached for _ in pauses] == [16, 32, 48]
    assert row.cache.cached == 50


def test_the_memory_of_the_rows_is_bounded(model):
    # A position takes 2 layers x 2 halves x 2 heads x 8 floats of 4 bytes: 256 bytes.
    decoder = BatchDecoder(model, kv_limit=256 * 100)
    assert not decoder.is_full(10**6, 10**6)  # alone anything may run
    joined(model, decoder, PROMPTS[0], Sampling(max_tokens=40))
    # 3 positions and 39 tokens that are still to come.
    assert not decoder.is_full(50, 8)
    assert decoder.is_full(50, 9)
    huge = BatchDecoder(model, kv_limit=256 * 5000)
    joined(model, huge, PROMPTS[0], Sampling(max_tokens=10**6))
    assert not huge.is_full(100, 10**6)  # room for 2048 tokens of each is kept
    assert huge.is_full(1000, 10**6)


def test_a_model_of_an_unpatched_mlx_lm_gives_the_same(model, monkeypatch):
    """As where a program imported mlx_lm before: rows are then padded to one length."""
    wanted = [
        alone(model, prompt, sampling)
        for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True)
    ]
    padded: list[int] = []

    def join(_: Any, rows: Sequence[Any]) -> Any:
        padded.append(len(rows))
        return rows_cache(rows, padded=True)

    monkeypatch.setattr(language, "join_caches", join)
    decoder = BatchDecoder(model)
    rows = [
        joined(model, decoder, prompt, sampling)
        for prompt, sampling in zip(PROMPTS, SAMPLINGS, strict=True)
    ]
    for row, chunks in zip(rows, wanted, strict=True):
        steps = [decoder.next(row) for _ in chunks]
        assert [each[:2] for each in parts(steps)] == [each[:2] for each in chunks]
    # Prompts of one length are prefilled together, with a mask for each position.
    pair = [Row(model, language.make_cache(model.language_model), SAMPLINGS[0])] * 1
    pair += [Row(model, language.make_cache(model.language_model), SAMPLINGS[0])]
    prompts = mx.concatenate([model.embed([p]) for p in (PROMPTS[0], [5, 6, 7])])
    decoder.join(pair, decode.whole(decoder.prefill(pair, prompts)))
    steps = [decoder.next(pair[0]) for _ in wanted[0]]
    assert parts(steps) == wanted[0]
    assert max(padded) == 4
