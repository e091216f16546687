"""The real `openai` package against /v1/responses."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from tests.support.serving import RunningServer  # noqa: E402

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
FORMAT = {"type": "json_schema", "name": "x", "strict": True, "schema": SCHEMA}


@pytest.fixture
def gpt(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client.responses


def image_part(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    url = f"data:image/png;base64,{data}"
    return {"type": "input_image", "image_url": url, "detail": "auto"}


def about(path: Path, text: str = PROMPT) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": text}, image_part(path)],
        }
    ]


def hello(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "Hello", "max_output_tokens": 8, **fields}


def test_a_response_says_what_chat_says(gpt, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, system="Be brief.", max_tokens=16)
    answer = gpt.create(
        model="tiny",
        input=about(coffee),
        instructions="Be brief.",
        max_output_tokens=16,
    )
    assert answer.output_text == wanted and answer.object == "response"
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.instructions == "Be brief." and answer.store is False
    usage = answer.usage
    assert usage.output_tokens == 16
    assert usage.total_tokens == usage.input_tokens + 16
    assert usage.input_tokens_details.image_tokens == 16
    assert answer.timings["ttft"] > 0


def test_a_text_alone(gpt, tiny_model):
    wanted = tiny_model.ask("Hello", [], max_tokens=8)
    assert gpt.create(**hello()).output_text == wanted
    items = [{"type": "message", "role": "user", "content": "Hello"}]
    assert gpt.create(**hello(input=items)).output_text == wanted


def test_every_event_in_order(gpt, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, max_tokens=9)
    asked = {"model": "tiny", "input": about(coffee), "max_output_tokens": 9}
    events = list(gpt.create(**asked, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    texts = [event.delta for event in events if event.type.endswith("delta")]
    assert "".join(texts) == wanted == events[-4].text and all(texts)
    assert events[-1].response.output_text == wanted
    assert events[-1].response.usage.output_tokens == 9
    assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1
    assert events[0].response.id == events[-1].response.id


def test_the_packages_own_stream_ends_whole(gpt):
    with gpt.stream(**hello(max_output_tokens=60, text={"format": FORMAT})) as stream:
        final = stream.get_final_response()
    assert final.status == "completed"
    assert sorted(json.loads(final.output_text)) == ["count", "kind"]


def test_answers_are_json(gpt):
    answer = gpt.create(**hello(max_output_tokens=60, text={"format": FORMAT}))
    assert sorted(json.loads(answer.output_text)) == ["count", "kind"]
    assert answer.text.format.type == "json_schema"
    form = {"format": {"type": "json_object"}}
    answer = gpt.create(**hello(max_output_tokens=60, text=form))
    assert isinstance(json.loads(answer.output_text), dict)
    with pytest.raises(openai.BadRequestError, match="max_output_tokens 1: too few"):
        gpt.create(**hello(max_output_tokens=1, text=form))
    wrong = {"format": {**FORMAT, "schema": {"type": "foo"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.create(**hello(text=wrong))
    assert caught.value.param == "text.format.schema"


def test_an_answer_can_be_sent_back(gpt, tiny_model):
    conversation = tiny_model.conversation(system="Be brief.")
    items: list[Any] = [{"role": "developer", "content": "Be brief."}]
    for question in ("Hello", "And?"):
        items.append({"role": "user", "content": question})
        answer = gpt.create(**hello(input=items))
        assert answer.output_text == conversation.ask(question, max_tokens=8)
        items += [item.model_dump() for item in answer.output]
        items.append({"type": "reasoning", "id": "rs_1", "summary": []})
    assert answer.usage.input_tokens_details.cached_tokens > 0


def test_logprobs(gpt):
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    answer = gpt.create(**hello(include=include, top_logprobs=2))
    part = answer.output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = list(gpt.create(**hello(include=include, stream=True)))
    told = [t for e in events if e.type.endswith("delta") for t in e.logprobs]
    assert [t.logprob for t in told] == [t.logprob for t in part.logprobs]
    assert gpt.create(**hello()).output[0].content[0].logprobs == []


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("background", True),
        ("prompt", {"id": "a"}),
        ("tools", [{"type": "web_search"}]),
        ("tool_choice", "required"),
        ("presence_penalty", 0.5),
        ("reasoning", {"effort": "high"}),
        ("text", {"verbosity": "low"}),
        ("temperature", 3),
        ("unheard_of", 1),
        ("input", [{"type": "item_reference", "id": "a"}]),
        ("input", [{"role": "assistant", "content": "Hi"}]),
        ("input", "word " * 20000),
    ],
)
def test_what_cannot_be_honoured_is_named(server, param, value):
    reply = server.send("/v1/responses", hello(**{param: value}))
    error = reply.json()["error"]
    assert reply.status == 400 and error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)


def test_options_that_change_nothing(gpt, server):
    wanted = gpt.create(**hello()).output_text
    harmless: dict[str, Any] = {
        "store": True,
        "metadata": {"a": "b"},
        "user": "me",
        "service_tier": "auto",
        "truncation": "auto",
        "parallel_tool_calls": True,
        "max_tool_calls": 3,
        "prompt_cache_key": "a",
        "reasoning": {"effort": None, "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "background": False,
        "include": ["file_search_call.results"],
        "tool_choice": "auto",
        "tools": [],
        "frequency_penalty": 0,
        "previous_response_id": None,
    }
    reply = server.send("/v1/responses", hello(**harmless))
    assert reply.json()["output"][0]["content"][0]["text"] == wanted
    assert reply.json()["metadata"] == {"a": "b"}
    tool = {"type": "function", "name": "look", "parameters": {}}
    answer = gpt.create(**hello(tools=[tool], tool_choice="none"))
    assert answer.output_text == wanted


def test_all_fields_of_the_openai_package_as_null(server, gpt):
    params = pytest.importorskip("openai.types.responses.response_create_params")
    fields = set(params.ResponseCreateParamsBase.__annotations__) - {"model", "input"}
    assert len(fields) > 25
    reply = server.send("/v1/responses", {**hello(), **dict.fromkeys(fields)})
    assert reply.status == 200, reply.body
