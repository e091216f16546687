"""The real `anthropic` package against the server."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import RunningServer, running

PROMPT = "Describe the image."
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "kind": {"enum": ["photo", "drawing"]},
    },
    "required": ["count", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def anthropic() -> Any:
    """Its import takes seconds, which only the process that runs these tests has."""
    return pytest.importorskip("anthropic")


@pytest.fixture
def claude(anthropic, server: RunningServer) -> Iterator[Any]:
    with anthropic.Anthropic(
        base_url=server.url, api_key="unused", max_retries=0
    ) as client:
        yield client.messages


def image_block(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {"type": "image", "source": source}


def about(path: Path, text: str = PROMPT) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [image_block(path), {"type": "text", "text": text}]}
    ]


def hello(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, **fields}


def test_anthropic_says_what_chat_says(claude, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, system="Be brief.", max_tokens=16)
    for system in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        answer = claude.create(
            model="tiny", messages=about(coffee), system=system, max_tokens=16
        )
        assert [block.text for block in answer.content] == [wanted]
        assert (answer.type, answer.role, answer.model) == (
            "message",
            "assistant",
            "tiny",
        )
        assert answer.stop_reason == "max_tokens" and answer.stop_sequence is None
        usage = answer.usage
        whole = usage.input_tokens + usage.cache_read_input_tokens
        assert usage.output_tokens == 16 and whole > 16
        assert answer.timings["ttft"] > 0


def test_every_event_in_order(server, claude, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, max_tokens=9)
    asked = {"model": "tiny", "messages": about(coffee), "max_tokens": 9}
    events = list(claude.create(**asked, stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    texts = [event.delta.text for event in events if event.type.endswith("block_delta")]
    assert "".join(texts) == wanted and all(texts)
    assert events[0].message.content == [] and events[0].message.stop_reason is None
    assert events[-2].delta.stop_reason == "max_tokens"
    assert events[-2].usage.output_tokens == 9
    # The package skips pings.
    raw = server.send("/v1/messages", {**asked, "stream": True})
    assert raw.headers["content-type"].startswith("text/event-stream")
    lines = [
        line[7:] for line in raw.body.decode().splitlines() if line.startswith("event:")
    ]
    assert lines[:3] == ["message_start", "content_block_start", "ping"]
    with claude.stream(**asked) as stream:
        assert "".join(stream.text_stream) == wanted
        assert stream.get_final_message().usage.output_tokens == 9


def test_the_stop_sequence_is_named(claude, tiny_model):
    full = tiny_model.ask("Hello", [], max_tokens=24)
    stop = full[6:9]
    asked = hello(max_tokens=24, stop_sequences=["never said", stop])
    answer = claude.create(**asked)
    assert answer.content[0].text == full[: full.index(stop)]
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    last = list(claude.create(**asked, stream=True))[-2]
    assert (last.delta.stop_reason, last.delta.stop_sequence) == ("stop_sequence", stop)


def test_answers_are_json_of_the_schema(anthropic, server, claude):
    form = {"type": "json_schema", "schema": SCHEMA}
    answer = claude.create(**hello(max_tokens=60, output_config={"format": form}))
    value = json.loads(answer.content[0].text)
    assert sorted(value) == ["count", "kind"] and answer.stop_reason == "end_turn"
    older = server.send("/v1/messages", hello(max_tokens=60, output_format=form))
    assert json.loads(older.json()["content"][0]["text"]) == value
    with pytest.raises(anthropic.BadRequestError, match="output_config.format.schema"):
        wrong = {"type": "json_schema", "schema": {"type": "foo"}}
        claude.create(**hello(output_config={"format": wrong}))


def test_the_beta_client_asks_the_same_way(anthropic, server):
    with anthropic.Anthropic(base_url=server.url, api_key="-") as client:
        wanted = client.messages.create(**hello()).content[0].text
        form = {"type": "json_schema", "schema": SCHEMA}
        create = client.beta.messages.create
        assert create(**hello(), betas=["a-2025-01-01"]).content[0].text == wanted
        answer = create(**hello(max_tokens=60, output_config={"format": form}))
    assert sorted(json.loads(answer.content[0].text)) == ["count", "kind"]


def test_tokens_are_counted(claude, coffee):
    messages = about(coffee)
    count = claude.count_tokens(model="tiny", messages=messages).input_tokens
    usage = claude.create(model="tiny", messages=messages, max_tokens=2).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens == 51
    assert usage.cache_read_input_tokens > 16  # the counted prompt is kept


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("NotFoundError", {"model": "claude"}, "this server has 'tiny'"),
        ("BadRequestError", {"tools": [{"name": "a", "input_schema": {}}]}, "'tools'"),
        (
            "BadRequestError",
            {"tool_choice": {"type": "any"}},
            "tool_choice.type: give 'auto' or 'none'",
        ),
        (
            "BadRequestError",
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking.type: give 'disabled' or 'adaptive'",
        ),
        (
            "BadRequestError",
            {"output_config": {"effort": "low"}},
            "effort: give 'high'",
        ),
        (
            "BadRequestError",
            {"max_tokens": 0},
            "max_tokens: give a whole number from 1",
        ),
        ("BadRequestError", {"extra_body": {"n": 2}}, "supplied: n"),
        (
            "BadRequestError",
            {"messages": [{"role": "assistant", "content": "Hi"}]},
            "must be the user's",
        ),
        (
            "BadRequestError",
            {"messages": [{"role": "user", "content": "word " * 20000}]},
            "tokens of context",
        ),
    ],
)
def test_errors_have_anthropics_shape(anthropic, claude, kind, fields, words):
    with pytest.raises(getattr(anthropic, kind)) as caught:
        claude.create(**hello(**fields))
    body = caught.value.body
    wanted = "not_found_error" if kind.startswith("Not") else ("invalid_request_error")
    assert body["type"] == "error" and body["error"]["type"] == wanted
    assert words in body["error"]["message"]


def test_an_image_that_is_none_is_named(anthropic, claude):
    for source, field in (
        ({"type": "base64", "media_type": "image/png", "data": "A!"}, "data"),
        ({"type": "url", "url": "cat.png"}, "url"),
    ):
        content = [{"type": "image", "source": source}]
        messages = [{"role": "user", "content": content}]
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.create(**hello(messages=messages))
        message = caught.value.body["error"]["message"]
        assert message.startswith(f"messages[0].content[0].source.{field}: ")


def test_options_that_change_nothing(claude):
    wanted = claude.create(**hello()).content[0].text
    harmless: dict[str, Any] = {
        "metadata": {"user_id": "me"},
        "service_tier": "auto",
        "thinking": {"type": "adaptive"},
        "tool_choice": {"type": "auto"},
        "output_config": {"effort": "high"},
        "cache_control": {"type": "ephemeral"},
        # The package has no such parameters any more.
        "extra_body": {"temperature": 0.0, "top_k": -1, "speed": "standard"},
    }
    assert claude.create(**hello(**harmless)).content[0].text == wanted
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    none = {"type": "none"}
    assert (
        claude.create(**hello(tools=tools, tool_choice=none)).content[0].text == wanted
    )


def test_the_token_may_stand_in_anthropics_header(anthropic, reference):
    with running(reference / "llava-mini", token="right") as server:
        for key, right in (("right", True), ("wrong", False)):
            with anthropic.Anthropic(
                base_url=server.url, api_key=key, max_retries=0
            ) as client:
                if right:
                    assert client.messages.create(**hello()).content
                    assert client.models.retrieve("tiny").display_name == "tiny"
                    continue
                with pytest.raises(anthropic.AuthenticationError) as caught:
                    client.messages.create(**hello())
                assert caught.value.body["error"]["type"] == "authentication_error"
        assert server.send("/props").status == 401
