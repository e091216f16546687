"""`batch_generate` and `complete`: answers are what `stream_generate` gives alone."""

import weakref
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx import device
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.generation import batch, decode
from fastvlm_mlx.generation.batch import Completion, Prompt, batch_generate, complete
from fastvlm_mlx.generation.constrained import JSONConstraint
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.generation.stream import stream_generate
from fastvlm_mlx.model.language import make_cache
from tests.support.mock_model import MockModel

PROMPTS = [[10, 20, 30], [40, 50, 60], [10, 20, 31], [9, 9, 9], [300, 2, 7]]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def embedded(model: MockModel, prompts: list[list[int]] = PROMPTS) -> mx.array:
    return mx.concatenate([model.embed([prompt]) for prompt in prompts])


def one_by_one(
    model: MockModel, sampling: Sampling, schema: Any = None
) -> list[Completion]:
    completions: list[Completion] = []
    for prompt in PROMPTS:
        cache = make_cache(model.language_model)
        constraint = JSONConstraint(model, schema) if schema else None
        chunks = list(
            stream_generate(
                model, model.embed([prompt]), cache, sampling, constraint=constraint
            )
        )
        completions.append(
            Completion(
                "".join(chunk.text for chunk in chunks),
                tuple(chunk.token for chunk in chunks if chunk.token is not None),
                chunks[-1].finish_reason or "",
            )
        )
    return completions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 1},
        {"temperature": 0.9, "seed": 5, "top_p": 0.9},
        {"repetition_penalty": 1.4},
        {"stop": ["e", "a"]},
    ],
)
def test_each_row_is_what_it_would_be_alone(model, options):
    sampling = Sampling(**{"max_tokens": 14, **options})
    found = batch_generate(model, embedded(model), sampling)
    assert found == one_by_one(model, sampling)


def test_stop_sequences_and_stop_tokens_end_rows_apart(model):
    whole = one_by_one(model, Sampling(max_tokens=14))
    # A text of the first row alone, and the third token of the second.
    stop = [whole[0].text[4:8]]
    model.tokenizer.stop_ids |= {whole[1].tokens[2]}
    try:
        sampling = Sampling(max_tokens=14, stop=stop)
        found = batch_generate(model, embedded(model), sampling)
        assert found == one_by_one(model, sampling)
    finally:
        model.tokenizer.stop_ids -= {whole[1].tokens[2]}
    assert (found[0].text, found[0].finish_reason) == (whole[0].text[:4], "stop")
    assert found[1].tokens == whole[1].tokens[:2]
    assert {len(each.tokens) for each in found} > {2}


def test_rows_that_ended_leave_the_cache(model, monkeypatch):
    whole = one_by_one(model, Sampling(max_tokens=8))
    seen: list[int] = []
    logits = type(model).logits

    def watched(self: MockModel, embeddings: mx.array, cache: Any) -> mx.array:
        seen.append(len(embeddings))
        return logits(self, embeddings, cache)

    monkeypatch.setattr(type(model), "logits", watched)
    ends = frozenset({whole[0].tokens[1], *model.tokenizer.stop_ids})
    monkeypatch.setattr(model.tokenizer, "stop_ids", ends)
    batch_generate(model, embedded(model), Sampling(max_tokens=8))
    # One step more on a GPU, where it runs ahead of what was read.
    together = 2 + device.on_gpu()
    assert seen[:together] == [5] * together and seen[-1] < 5


def test_a_constraint_for_each_row(model):
    sampling = Sampling(max_tokens=30)
    constraints: list[Constraint] = [JSONConstraint(model, SCHEMA) for _ in PROMPTS]
    found = batch_generate(model, embedded(model), sampling, constraints=constraints)
    assert found == one_by_one(model, sampling, SCHEMA)
    stopping = Sampling(max_tokens=30, stop=['"'])
    constraints = [JSONConstraint(model, SCHEMA) for _ in PROMPTS]
    found = batch_generate(model, embedded(model), stopping, constraints=constraints)
    assert found == one_by_one(model, sampling, SCHEMA)
    with pytest.raises(OptionError) as caught:
        batch_generate(model, embedded(model), sampling, constraints=constraints[:2])
    assert str(caught.value) == (
        "constraints: 2 for 5 prompts; give none, or one for each"
    )


def test_long_prompts_are_prefilled_in_steps(model, monkeypatch):
    prompts = [list(range(start, start + 50)) for start in (10, 200, 900)]
    sampling = Sampling(max_tokens=6)
    whole = batch_generate(model, embedded(model, prompts), sampling)
    monkeypatch.setattr(decode, "PREFILL_STEP", 16)
    assert batch_generate(model, embedded(model, prompts), sampling) == whole


def test_unused_buffers_are_freed(model, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(decode, "CLEAR_CACHE_EVERY", 4)
    monkeypatch.setattr(mx, "clear_cache", lambda: calls.append(1))
    batch_generate(model, embedded(model), Sampling(max_tokens=9))
    assert len(calls) == 2


def test_no_prompts(model):
    assert batch_generate(model, mx.zeros((0, 3, 32)), Sampling()) == []


def prompts_of(model: MockModel, *limits: int) -> list[Prompt]:
    """Prompts whose answers are so many tokens long."""
    return [
        Prompt(model.embed([ids]), Sampling(max_tokens=limit, ignore_eos=True))
        for ids, limit in zip(PROMPTS * 3, limits, strict=False)
    ]


def widths(model: MockModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The rows and positions of every forward pass from now on."""
    seen: list[tuple[int, ...]] = []
    logits = type(model).logits

    def watched(self: MockModel, embeddings: mx.array, cache: Any) -> mx.array:
        seen.append(embeddings.shape[:2])
        return logits(self, embeddings, cache)

    monkeypatch.setattr(type(model), "logits", watched)
    return seen


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_answers_come_in_order_whatever_their_lengths(model, size):
    prompts = prompts_of(model, 9, 1, 3, 12, 2, 7, 1, 1, 5)
    alone = [next(complete(model, [each], size=1)) for each in prompts]
    assert [len(each.tokens) for each in alone] == [9, 1, 3, 12, 2, 7, 1, 1, 5]
    assert list(complete(model, prompts, size=size)) == alone


def test_the_next_prompt_takes_a_place_that_is_free(model, monkeypatch):
    seen = widths(model, monkeypatch)
    list(complete(model, prompts_of(model, 3, 9, 3, 3, 3), size=2))
    steps = [rows for rows, positions in seen if positions == 1]
    # The second takes eight steps, the others two each, most beside it. A place stays
    # free while the end of its answer is read.
    assert steps == [2, 2, 1, 2, 2, 1, 2, 2, 1, 1]
    prefills = [shape for shape in seen if shape[1] > 1]
    assert prefills == [(2, 3), (1, 3), (1, 3), (1, 3)]


def test_prompts_are_read_as_they_are_needed(model):
    read: list[int] = []

    def prompts():
        for number, each in enumerate(prompts_of(model, 30, *[1] * 14)):
            read.append(number)
            yield each

    answers = complete(model, prompts(), size=3)
    assert read == []
    assert len(next(answers).tokens) == 30  # the others wait for it, six in all
    assert read == list(range(6))
    assert len(next(answers).tokens) == 1
    assert len(read) == 6
    rest = list(answers)
    assert len(rest) == 13 and len(read) == 15


def test_what_is_no_prompt_is_given_back_in_its_place(model):
    bad, worse = FastVLMError("bad"), FastVLMError("worse")
    first, second = prompts_of(model, 4, 1)
    found = list(complete(model, [bad, first, worse, second, bad], size=2))
    assert [found[0], found[2], found[4]] == [bad, worse, bad]
    lengths = [len(each.tokens) for each in found if isinstance(each, Completion)]
    assert lengths == [4, 1]
    assert list(complete(model, [bad] * 9, size=2)) == [bad] * 9


def test_the_cache_of_an_answer_that_waits_is_let_go(model, monkeypatch):
    rows: list[weakref.ref] = []
    real = batch.Row.__init__

    def init(self, *given):
        real(self, *given)
        rows.append(weakref.ref(self))

    monkeypatch.setattr(batch.Row, "__init__", init)
    alive: list[int] = []
    step = batch._Answer.step

    def watched(self, decoder):
        alive.append(sum(row() is not None for row in rows))
        step(self, decoder)

    monkeypatch.setattr(batch._Answer, "step", watched)
    list(complete(model, prompts_of(model, 20, *[2] * 7), size=2))
    assert len(rows) == 8 and max(alive) <= 2
