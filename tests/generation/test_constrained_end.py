"""An answer of a given form ends where the model ends it."""

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("llguidance")

from fastvlm_mlx.errors import OptionError  # noqa: E402
from fastvlm_mlx.generation.constrained import (  # noqa: E402
    JSONConstraint,
    json_constraint,
)


def likeliest(logits: mx.array) -> mx.array:
    return mx.argmax(logits, axis=-1)


def said(model, schema, texts: list[str], room: int = 20) -> str:
    """What is said by a model that wants `texts`, one token each, and then to end."""
    constraint, ids = JSONConstraint(model, schema), []
    stop = min(model.tokenizer.stop_ids)
    for left in range(room, 0, -1):
        wanted = stop
        if len(ids) < len(texts):
            (wanted,) = model.tokenizer.encode(texts[len(ids)])
        logits = np.zeros((1, model.config.text.vocab_size), np.float32)
        logits[0, wanted] = 9
        token = int(constraint.choose(mx.array(logits), likeliest, left).item())  # type: ignore
        if token in model.tokenizer.stop_ids:
            return model.tokenizer.decode(ids)
        ids.append(token)
    raise AssertionError(f"no end in {room} tokens")


@pytest.mark.parametrize(
    ("schema", "texts", "answer"),
    [
        ({"type": "integer"}, ["7"], "7"),
        ({"type": "integer"}, ["7", "0"], "70"),
        ({"type": "number"}, ["7", ".", "5"], "7.5"),
        ({"type": "string"}, ['"', "a", '"'], '"a"'),
        ({"enum": [1, 12, 123]}, ["1", "2"], "12"),
    ],
)
def test_it_ends_where_it_may_and_the_model_wants(tiny_model, schema, texts, answer):
    assert said(tiny_model, schema, texts) == answer


def test_it_goes_on_where_it_may_not_end(tiny_model):
    assert said(tiny_model, {"enum": [123]}, ["1"]) == "123"
    assert said(tiny_model, {"type": "string", "maxLength": 0}, ['"']) == '""'


def test_the_room_it_needs_is_exact(tiny_model):
    schema = {"const": "abc"}
    with pytest.raises(OptionError) as caught:
        said(tiny_model, schema, [], room=1)
    needed = int(str(caught.value).rpartition(" ")[2])
    assert said(tiny_model, schema, [], room=needed) == '"abc"'
    with pytest.raises(OptionError, match=f"max_tokens {needed - 1}: too few"):
        said(tiny_model, schema, [], room=needed - 1)


def test_no_schema_is_no_constraint(tiny_model):
    assert json_constraint(tiny_model, None) is None
    assert isinstance(json_constraint(tiny_model, {}), JSONConstraint)
