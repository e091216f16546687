"""Answers of a given form: valid to the last token, whatever the model wants."""

import json
from typing import Any

import pytest

pytest.importorskip("llguidance")

from fastvlm_mlx.errors import FastVLMError, OptionError  # noqa: E402
from fastvlm_mlx.generation import constrained, json_schema  # noqa: E402
from fastvlm_mlx.generation.constrained import JSONConstraint  # noqa: E402

IMAGE = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "count": {"type": "integer", "minimum": 3},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "kind": {"enum": ["photo", "drawing"]},
        "size": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"pattern": "^[a-z]{3,9}$"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
    "required": ["title", "count", "tags", "kind", "size"],
    "additionalProperties": False,
}
LIST = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object"}}}
LIST["$defs"]["node"] |= {  # type: ignore
    "properties": {"value": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
}


def answered(model: Any, schema: Any, **options: Any) -> tuple[Any, Any]:
    chunks = list(
        model.stream("Tell me.", constraint=JSONConstraint(model, schema), **options)
    )
    return json.loads("".join(chunk.text for chunk in chunks)), chunks[-1]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("max_tokens", [70, 110])
def test_an_answer_is_whole_however_little_room_it_has(
    tiny_model, max_tokens, temperature
):
    said, last = answered(
        tiny_model, IMAGE, max_tokens=max_tokens, temperature=temperature, seed=3
    )
    assert sorted(said) == sorted(IMAGE["properties"])
    assert said["count"] >= 3 and said["tags"] and said["kind"] in ("photo", "drawing")
    assert last.finish_reason == "stop" and last.generation_tokens < max_tokens


@pytest.mark.parametrize("stop", [['"'], ["}"], [":", "{"], ["count"]])
def test_a_stop_sequence_does_not_cut_json(tiny_model, stop):
    said, last = answered(tiny_model, IMAGE, max_tokens=110, stop=stop)
    assert sorted(said) == sorted(IMAGE["properties"])
    assert last.finish_reason == "stop"
    plain, _ = answered(tiny_model, IMAGE, max_tokens=110)
    assert said == plain


@pytest.mark.parametrize("schema", [None, {"type": "object"}, LIST, {}])
@pytest.mark.parametrize("seed", range(4))
def test_answers_of_many_forms_are_json(tiny_model, schema, seed):
    options = {"temperature": 2.0, "seed": seed, "max_tokens": 30}
    said, last = answered(tiny_model, schema, **options)
    assert last.finish_reason == "stop"
    if schema != {}:
        assert isinstance(said, dict)


def test_the_form_does_not_change_what_fits_it(tiny_model):
    """A model that says JSON anyway is left alone."""
    said, last = answered(tiny_model, {"const": "yes"})
    assert said == "yes" and last.finish_reason == "stop"


def test_too_little_room_is_refused_before_anything_is_said(tiny_model):
    with pytest.raises(OptionError, match="max_tokens 9: too few .* give at least"):
        answered(tiny_model, IMAGE, max_tokens=9)
    conversation = tiny_model.conversation()
    with pytest.raises(OptionError):
        conversation.ask(
            "Hi", max_tokens=2, constraint=JSONConstraint(tiny_model, IMAGE)
        )
    assert conversation.history == () and conversation.context_used == 0


@pytest.mark.parametrize(
    "schema",
    [{"type": "nothing"}, {"enum": []}, {"pattern": "("}, {"$ref": "http://a/b"}, []],
)
def test_schemas_that_cannot_be_followed(tiny_model, schema):
    with pytest.raises(OptionError, match="^schema: "):
        json_schema.check_schema(schema)
    with pytest.raises(OptionError, match="^schema: "):
        answered(tiny_model, schema)


HUNDREDS: Any = {"type": "null"}
for _ in range(300):
    HUNDREDS = {"type": "array", "items": HUNDREDS}


@pytest.mark.parametrize(
    "schema",
    [
        {"const": float("nan")},
        {"minimum": float("-inf")},
        json.loads('{"maximum": 1e400}'),
        {"const": 10**400},
        {"const": 10**5000},
        {"const": "\ud800"},
        {"properties": {"\udc00": {}}},
        {"const": {1, 2}},
        HUNDREDS,
    ],
    ids=[*"123456789"],
)
def test_schemas_that_are_not_json(tiny_model, schema):
    for follow in (json_schema.check_schema, lambda it: JSONConstraint(tiny_model, it)):
        with pytest.raises(OptionError) as caught:
            follow(schema)
        said = str(caught.value)
        assert said.startswith("schema: cannot be followed (") and "\n" not in said
        assert said.endswith("; simplify it") and len(said) < 260


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"$ref": "#"}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**6},
    ],
)
def test_schemas_without_an_end_are_refused(tiny_model, schema):
    with pytest.raises(
        OptionError, match="^schema: cannot be followed .* simplify it$"
    ):
        answered(tiny_model, schema, max_tokens=512)


def test_follow_ups_after_json(tiny_model):
    conversation = tiny_model.conversation()
    first = conversation.ask("Hi", max_tokens=40, constraint=JSONConstraint(tiny_model))
    assert json.loads(first) == {} or json.loads(first)
    plain = conversation.ask("And?", max_tokens=5)
    again = tiny_model.conversation()
    again.state.replay(conversation.history[0])
    again.state.replay(conversation.history[1])
    assert again.ask("And?", max_tokens=5) == plain


def test_a_missing_library_is_one_line(tiny_model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    monkeypatch.setattr(tiny_model, "llguidance_tokenizer", None)
    with pytest.raises(FastVLMError, match=r"pip install .*llguidance"):
        constrained.llguidance_tokenizer(tiny_model)


def test_chat_answers_in_json_of_a_schema(run, tiny, tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(IMAGE))

    def chat(*arguments: str):
        return run("chat", "-m", tiny, *arguments)

    asked = ("-p", "Describe it.", "--max-tokens", "90", "--schema", str(file))
    code, out, err = chat(*asked)
    assert (code, err) == (0, "") and sorted(json.loads(out)) == sorted(
        IMAGE["properties"]
    )
    code, out, _ = chat(*asked, "--json")
    assert "tags" in json.loads(json.loads(out)["answer"])
    file.write_text("{")
    code, out, err = chat(*asked)
    assert code == 1 and "schema.json: not JSON" in err and err.count("\n") == 1
    file.write_text('{"type": "nothing"}')
    assert "cannot be followed" in chat(*asked)[2]
    assert "no such file" in chat("-p", "Hi", "--schema", str(tmp_path / "no"))[2]
