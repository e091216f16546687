"""The real `openai` package against the server (and JSON from both protocols)."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")
ollama = pytest.importorskip("ollama")

from tests.support.serving import RunningServer  # noqa: E402

PROMPT = "Describe the image."


@pytest.fixture
def gpt(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client.chat.completions


@pytest.fixture
def llama(server: RunningServer) -> Iterator[Any]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


def image_part(path: Path) -> dict[str, Any]:
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def about(path: Path, text: str = PROMPT) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": text}, image_part(path)]
    return [{"role": "user", "content": parts}]


def test_openai_says_what_chat_says(gpt, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, max_tokens=16)
    whole = gpt.create(model="tiny", messages=about(coffee), max_tokens=16)
    assert whole.choices[0].message.content == wanted
    assert whole.choices[0].finish_reason == "length"
    assert whole.object == "chat.completion" and whole.model == "tiny"
    assert whole.usage.prompt_tokens == 51
    assert whole.usage.prompt_tokens_details.image_tokens == 16
    assert whole.usage.completion_tokens == 16 and whole.usage.total_tokens == 67
    assert 0 < whole.timings["ttft"] < 30 and "cached_tokens" in whole.timings


def test_openai_streams_what_chat_says(gpt, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, max_tokens=16)
    chunks = list(
        gpt.create(
            model="tiny",
            messages=about(coffee),
            max_completion_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *said, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in said) == wanted
    assert said[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in said][-1] == "length"
    assert {c.choices[0].finish_reason for c in said[:-1]} == {None}
    assert len({c.id for c in chunks}) == 1
    assert last.choices == [] and last.usage.total_tokens == 67
    assert all(c.usage is None for c in said)
    assert last.timings["ttft"] == said[0].timings["ttft"]


def test_openai_without_usage_ends_with_its_answer(gpt):
    chunks = list(
        gpt.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=3,
            stream=True,
        )
    )
    assert all(chunk.choices for chunk in chunks)


def test_openai_follow_ups_are_cached(gpt, tiny_model, coffee):
    conversation = tiny_model.conversation(coffee, system="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, *about(coffee)]
    cached = []
    for question in (PROMPT, "And why?", "Since when?"):
        if question != PROMPT:
            messages.append({"role": "user", "content": question})
        answer = gpt.create(model="tiny", messages=messages, max_tokens=9)
        wanted = conversation.ask(question, max_tokens=9)
        assert answer.choices[0].message.content == wanted
        messages.append(answer.choices[0].message.model_dump())
        details = answer.usage.prompt_tokens_details
        cached.append(answer.usage.prompt_tokens - details.cached_tokens)
        assert answer.usage.prompt_tokens == conversation.context_used - 9
    assert cached[1] < 30 and cached[2] < 30


def test_an_edited_question_keeps_what_came_before(gpt, tiny_model, coffee):
    messages = about(coffee)
    first = gpt.create(model="tiny", messages=messages, max_tokens=9)
    messages.append(first.choices[0].message.model_dump())
    for question in ("What else?", "Anything more?"):
        asked = [*messages, {"role": "user", "content": question}]
        answer = gpt.create(model="tiny", messages=asked, max_tokens=9)
        conversation = tiny_model.conversation(coffee)
        conversation.ask(PROMPT, max_tokens=9)
        wanted = conversation.ask(question, max_tokens=9)
        assert answer.choices[0].message.content == wanted
        assert answer.usage.prompt_tokens_details.cached_tokens > 50


def test_several_images_and_messages_of_one_side(gpt, tiny_model, coffee, images):
    other = images / "astronaut.png"
    wanted = tiny_model.ask("First.\n\nSecond.", [coffee, other], max_tokens=9)
    messages = [
        {"role": "user", "content": [image_part(coffee), image_part(other)]},
        {"role": "user", "content": "First."},
        {"role": "user", "content": "Second."},
    ]
    answer = gpt.create(model="tiny", messages=messages, max_tokens=9)
    assert answer.choices[0].message.content == wanted
    assert answer.usage.prompt_tokens_details.image_tokens == 32


@pytest.mark.parametrize("seed", [0, -5, 2**40 + 7])
def test_a_seed_makes_openai_sampling_repeatable(gpt, tiny_model, seed):
    options = {"temperature": 0.9, "top_p": 0.95, "seed": seed}
    said = [
        gpt.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=12,
            **options,
        )
        .choices[0]
        .message.content
        for _ in range(2)
    ]
    options["seed"] = seed % 2**32
    assert said == [tiny_model.ask("Hello", [], max_tokens=12, **options)] * 2


def test_stop_texts(gpt, tiny_model):
    full = tiny_model.ask("Hello", [], max_tokens=24)
    stop = full[6:9]
    answer = gpt.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=24,
        stop=[stop, "never said"],
    )
    assert answer.choices[0].message.content == full[: full.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "count": {"type": "integer"},
        "kind": {"enum": ["photo", "drawing"]},
    },
    "required": ["title", "count", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_answers_are_json_of_the_schema(gpt, llama, temperature):
    form = {"name": "image", "strict": True, "schema": SCHEMA}
    answer = gpt.create(
        model="tiny",
        messages=[{"role": "user", "content": "Describe it."}],
        max_tokens=60,
        temperature=temperature,
        seed=1,
        response_format={"type": "json_schema", "json_schema": form},
    )
    of_gpt = json.loads(answer.choices[0].message.content)
    answer = llama.chat(
        model="tiny",
        messages=[{"role": "user", "content": "Describe it."}],
        format=SCHEMA,
        options={"num_predict": 60, "temperature": temperature, "seed": 1},
    )
    assert json.loads(answer.message.content) == of_gpt
    assert sorted(of_gpt) == ["count", "kind", "title"]
    assert isinstance(of_gpt["count"], int) and of_gpt["kind"] in ("photo", "drawing")


def test_answers_are_json_objects(gpt, llama):
    answer = gpt.create(
        model="tiny",
        messages=[{"role": "user", "content": "Describe it."}],
        max_tokens=40,
        response_format={"type": "json_object"},
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].finish_reason == "stop"
    answer = llama.generate(
        model="tiny", prompt="Describe it.", format="json", options={"num_predict": 40}
    )
    assert isinstance(json.loads(answer.response), dict)


def test_openai_errors_have_openais_shape(server, gpt):
    with pytest.raises(openai.NotFoundError) as caught:
        gpt.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.code == "model_not_found" and caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="tools") as caught:
        gpt.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert caught.value.code == "unsupported_value" and caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError, match="'tools'"):
        gpt.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
            tool_choice="auto",
        )
    with pytest.raises(openai.BadRequestError, match="Unrecognized request argument"):
        gpt.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            extra_body={"frequency": 1},
        )
    with pytest.raises(openai.BadRequestError, match="tokens of context") as caught:
        gpt.create(
            model="tiny", messages=[{"role": "user", "content": "word " * 20000}]
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "invalid_request_error"


def test_openai_lists_the_model(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "fastvlm-mlx"


def test_stages_are_measured_on_request(server):
    plain, detailed = (
        server.ask("Hello", **options).json()["timings"]
        for options in ({}, {"detailed_timings": True})
    )
    assert "prefill" not in plain
    assert detailed["prefill"] > 0 and detailed["first_token"] > 0


def test_a_client_that_leaves_ends_its_answer(server):
    asked = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4000,
        "stream": True,
    }
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        with client.chat.completions.create(**asked) as stream:
            next(iter(stream))
            assert server.worker.waiting == 1
    deadline = time.monotonic() + 5
    while server.worker.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.worker.waiting == 0
