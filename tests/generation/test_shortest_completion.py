"""Answers under a schema end in time: the shortest end is found and is taken."""

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("llguidance")

from fastvlm_mlx.errors import OptionError  # noqa: E402
from fastvlm_mlx.generation.completion import JSONState  # noqa: E402
from fastvlm_mlx.generation.constrained import JSONConstraint  # noqa: E402
from fastvlm_mlx.generation.json_schema import grammar_of  # noqa: E402

BYTES = frozenset(range(256))


def text(**keywords: Any) -> dict[str, Any]:
    return {"type": "string", **keywords}


def only(schema: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": schema},
        "required": ["a"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("schema", "begun", "end"),
    [
        (text(pattern="^[ab]*c$"), '"', 'c"'),
        (text(pattern=".*x"), '"no', 'x"'),
        (text(pattern=r"\.png$"), '"foo.p', 'ng"'),
        (text(pattern=r"\.png$"), '"foo.png.', 'png"'),
        (text(pattern=r"^.*@.*\..*$"), '"x', '@."'),
        (text(pattern="[a-z]*z$"), '"abc', 'z"'),
        (text(pattern="(a|b)*abb$"), '"abbab', 'b"'),
        (text(pattern="^(x|yyy(zz)+)*q$"), '"xyyyz', 'zq"'),
        (text(pattern="^[0-9]{3}-[0-9]{4}$"), '"12', '0-0000"'),
        (text(pattern="x$", minLength=6, maxLength=8), '"abc', 'aax"'),
        (text(pattern="é$"), '"', 'é"'),
        (text(pattern=r"^\\+\"$"), '"', r'\\\""'),
        (text(format="email"), '"bob@', 'a"'),
        (text(format="date"), '"2024-1', None),
        (text(format="ipv6"), '"', '::"'),
        (text(minLength=1500), '"', "a" * 1500 + '"'),
        (text(maxLength=3), '"ab', '"'),
        ({"anyOf": [text(pattern="^a{40}$"), text(pattern="^a?b+c$")]}, '"a', 'bc"'),
        ({"anyOf": [text(minLength=9), {"type": "null"}]}, "", "null"),
        ({"enum": ["a" * 40, "brief"]}, "", '"brief"'),
        ({"type": "integer", "minimum": 1001, "multipleOf": 7}, "", "1001"),
        ({"type": "integer", "minimum": 1000, "multipleOf": 97}, "3", "007"),
        ({"type": "array", "items": {}, "minItems": 3}, "[[", "], 0, 0]"),
        ({"type": "array", "items": text(pattern="x$"), "minItems": 2}, "[", None),
        ({"type": "object"}, '{"a": [[{"b": "c', '"}]]}'),
        ({"type": "object", "patternProperties": {"^k.*y$": {}}}, '{"', None),
    ],
)
def test_the_shortest_completion(schema, begun, end):
    state = JSONState.start(schema, grammar_of(schema)).after(begun.encode())
    found = state.shortest_completion(BYTES)
    assert found is not None and state.completes(found)
    json.loads(begun.encode() + found)
    if end is not None:
        assert found.decode() == end


def test_no_completion_is_shorter():
    """Against every text of five letters or fewer."""
    pattern = "^((a|bc)*d|c+b{2}|ba?e)$"
    schema = text(pattern=pattern)
    words = (itertools.product("abcde", repeat=length) for length in range(6))
    texts = map("".join, itertools.chain.from_iterable(words))
    right = {said for said in texts if re.search(pattern, said)}
    for begun in ("", "b", "c", "bc", "ab", "ccc", "aab", "ba"):
        state = JSONState.start(schema, grammar_of(schema)).after(f'"{begun}'.encode())
        found = state.shortest_completion(BYTES)
        least = min(len(said) for said in right if said.startswith(begun))
        assert found is not None and len(found) == least - len(begun) + 1


def likeliest(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)


def answer(
    model: Any, schema: Any, budget: int, seed: int, sharp: float = 1.0
) -> tuple[str, bool]:
    """What random logits say under `schema`, and whether they ended it in `budget`."""
    constraint, vocabulary = JSONConstraint(model, schema), model.config.text.vocab_size
    said: list[int] = []
    for left in range(budget, 0, -1):
        logits = mx.random.normal((1, vocabulary), key=mx.random.key(seed << 20 | left))
        token = cast(int, constraint.choose(logits * sharp, likeliest, left).item())
        if token in model.tokenizer.stop_ids:
            return model.tokenizer.decode(said), True
        said.append(token)
    return model.tokenizer.decode(said), False


@pytest.mark.parametrize(
    "schema",
    [
        only(text(pattern=pattern))
        for pattern in (
            "^[ab]*c$",
            r"^.*\.png$",
            "^(a|b)+@(a|b)+c$",
            "^[a-f]*[A-F]{3}$",
        )
    ]
    + [only(text(format=name)) for name in ("email", "uri", "date-time", "uuid")],
)
def test_the_least_budget_is_told_and_is_enough(tiny_model, schema):
    with pytest.raises(
        OptionError, match=r"^max_tokens 1: too few .* at least \d+$"
    ) as e:
        answer(tiny_model, schema, 1, 0)
    least = int(str(e.value).split()[-1])
    assert least < 45
    with pytest.raises(OptionError, match=f"at least {least}$"):
        answer(tiny_model, schema, least - 1, 0)
    for budget in (least, least + 1, least + 5, 70):
        said, ended = answer(tiny_model, schema, budget, budget)
        assert ended
        if pattern := schema["properties"]["a"].get("pattern"):
            assert re.search(pattern, json.loads(said)["a"])


def test_what_the_model_would_say_is_left_alone_until_room_ends(tiny_model):
    """A pattern's strings may grow until only their shortest end fits."""
    schema = text(pattern="^[ab]*c$")
    lengths = [len(answer(tiny_model, schema, budget, 5)[0]) for budget in (6, 30)]
    assert lengths[0] < lengths[1] or lengths[1] < 30
    # The last token that fits is the end token: nothing is given away.
    ids = {tiny_model.tokenizer.encode(letter)[0] for letter in "ab"}
    logits = np.full((1, tiny_model.config.text.vocab_size), -9.0, np.float32)
    logits[0, list(ids)] = 9
    constraint, said = JSONConstraint(tiny_model, schema), []
    for left in range(20, 0, -1):
        token = constraint.choose(mx.array(logits), likeliest, left)
        said.append(int(token.item()))  # type: ignore
    assert said[-1] in tiny_model.tokenizer.stop_ids
    assert not tiny_model.tokenizer.stop_ids & {*said[:-1]}
    assert re.fullmatch('"[ab]+c"', tiny_model.tokenizer.decode(said[:-1]))


def a_schema(rng: random.Random, depth: int) -> tuple[Any, Callable[[Any], bool]]:
    """A random schema and whether a value is of it, as the schema's keywords say."""
    kind = rng.choice(("pattern", "length", "number", "enum", "null", "format"))
    if depth:
        kind = rng.choice((kind, "array", "object", "any", "object"))
    if kind == "pattern":
        pattern = rng.choice(
            (".*x", "^.*@.*[.].*$", "[a-z]*z$", "^(ab|[c-f]{2,5})+q?$", "^[^a]+$", "b")
        )
        bounds = rng.choice(({}, {"minLength": 3}, {"maxLength": 9}))
        least, most = bounds.get("minLength", 0), bounds.get("maxLength", 10**9)
        return (
            text(pattern=pattern, **bounds),
            lambda value: (
                isinstance(value, str)
                and bool(re.search(pattern, value))
                and least <= len(value) <= most
            ),
        )
    if kind == "length":
        low = rng.randrange(20)
        high = low + rng.randrange(5)
        return text(
            minLength=low, maxLength=high
        ), lambda value: isinstance(value, str) and low <= len(value) <= high
    if kind == "number":
        low, step = rng.choice((-3, 0, 17, 1000)), rng.choice((1, 5, 7))
        return {
            "type": "integer",
            "minimum": low,
            "multipleOf": step,
        }, lambda value: type(value) is int and value >= low and value % step == 0
    if kind == "enum":
        values = rng.sample(["x" * 30, "brief", 3, None, True, {"a": [1]}, 2.5], 3)
        return {"enum": values}, lambda value: value in values
    if kind == "format":
        return text(format="email"), lambda value: re.search(".@.", value) is not None
    if kind == "null":
        return {"type": "null"}, lambda value: value is None
    parts = [a_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]
    if kind == "array":
        schema, fits = parts[0]
        low = rng.randrange(4)
        return (
            {"type": "array", "items": schema, "minItems": low},
            lambda value: (
                isinstance(value, list) and len(value) >= low and all(map(fits, value))
            ),
        )
    if kind == "any":
        return {"anyOf": [schema for schema, _ in parts]}, lambda value: any(
            _fits(fits, value) for _, fits in parts
        )
    required = [f"p{i}" for i in range(len(parts)) if rng.random() < 0.7]
    return (
        {
            "type": "object",
            "properties": {f"p{i}": schema for i, (schema, _) in enumerate(parts)},
            "required": required,
            "additionalProperties": False,
        },
        lambda value: (
            isinstance(value, dict)
            and {*required} <= {*value} <= {f"p{i}" for i in range(len(parts))}
            and all(
                fits(value[f"p{i}"])
                for i, (_, fits) in enumerate(parts)
                if f"p{i}" in value
            )
        ),
    )


def _fits(fits: Callable[[Any], bool], value: Any) -> bool:
    try:
        return fits(value)
    except TypeError:
        return False


@pytest.mark.parametrize("seed", range(40))
def test_an_answer_is_of_its_schema_or_is_refused(tiny_model, seed):
    rng = random.Random(seed)
    schema, fits = a_schema(rng, 3)
    budget = rng.choice((5, 20, 60, 200))
    try:
        said, ended = answer(tiny_model, schema, budget, seed, sharp=rng.choice((1, 9)))
    except OptionError as error:
        found = re.search(r"give at least (\d+)$", str(error))
        assert found and int(found[1]) > budget, error
        said, ended = answer(tiny_model, schema, int(found[1]), seed)
    assert ended and fits(json.loads(said)), said
