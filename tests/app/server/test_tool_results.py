"""Results of tools, with images, in the histories of every protocol."""

import base64
import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.support.serving import RunningServer  # noqa: E402

CALL = 'look({"at": "table"})'


def url(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:;base64,{data}"}}


def histories(data: str) -> dict[str, dict[str, Any]]:
    """The same chat by path: a question, a call, and what it returned."""
    question = {"role": "user", "content": "What is on the table?"}
    at = {"at": "table"}
    written = json.dumps(at)
    function = {"name": "look", "arguments": written}
    call = {"id": "a", "type": "function", "function": function}
    image = {"type": "base64", "media_type": "image/png", "data": data}
    texts = {"type": "text", "text": "Here:"}
    result = [texts, {"type": "image", "source": image}]
    part = {"type": "input_image", "image_url": f"data:;base64,{data}"}
    return {
        "/v1/chat/completions": {
            "messages": [
                question,
                {"role": "assistant", "content": "I look.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "a", "content": [texts, url(data)]},
            ],
            "max_tokens": 8,
        },
        "/v1/messages": {
            "messages": [
                question,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "a", "name": "look", "input": at},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": result}
                    ],
                },
            ],
            "max_tokens": 8,
        },
        "/v1/responses": {
            "input": [
                question,
                {
                    "type": "function_call",
                    "name": "look",
                    "arguments": written,
                    "call_id": "a",
                },
                {
                    "type": "function_call_output",
                    "call_id": "a",
                    "output": [{"type": "input_text", "text": "Here:"}, part],
                },
            ],
            "max_output_tokens": 8,
        },
        "/api/chat": {
            "messages": [
                question,
                {
                    "role": "assistant",
                    "content": "I look.",
                    "tool_calls": [{"function": {"name": "look", "arguments": at}}],
                },
                {
                    "role": "tool",
                    "tool_name": "look",
                    "content": "Here:",
                    "images": [data],
                },
            ],
            "options": {"num_predict": 8},
        },
    }


def text_of(answer: dict[str, Any]) -> str:
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"]
    if "output" in answer:
        return answer["output"][0]["content"][0]["text"]
    if "content" in answer:
        return answer["content"][0]["text"]
    return answer["message"]["content"]


def test_results_with_images_are_turns_of_the_user(server: RunningServer, coffee):
    data = base64.b64encode(coffee.read_bytes()).decode()

    def plain(said: str) -> str:
        """The same without tools: texts and an image."""
        messages = [
            {"role": "user", "content": "What is on the table?"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": ["Here:", url(data)]},
        ]
        return text_of(server.ask(messages=messages, max_tokens=8).json())

    for path, body in histories(data).items():
        reply = server.send(path, {"model": "tiny", "stream": False, **body})
        assert reply.status == 200, (path, reply.body)
        said = CALL if path == "/v1/responses" else f"I look.\n{CALL}"
        assert text_of(reply.json()) == plain(said), path


def test_a_tool_that_failed(server: RunningServer):
    def ask(**result: Any) -> str:
        block = {"type": "tool_result", "tool_use_id": "a", **result}
        body = {"messages": [{"role": "user", "content": [block]}], "max_tokens": 8}
        reply = server.send("/v1/messages", {"model": "tiny", **body})
        assert reply.status == 200, reply.body
        return text_of(reply.json())

    wanted = text_of(server.ask("Error: no camera", max_tokens=8).json())
    assert ask(content="no camera", is_error=True) == wanted
    assert ask(content="Hi") == text_of(server.ask("Hi", max_tokens=8).json())
    assert isinstance(ask(), str)


def test_images_only_where_they_can_be(server: RunningServer):
    part = url("AAAA")
    for role in ("system", "assistant"):
        body = {"model": "tiny", "input": [{"role": role, "content": [part]}]}
        reply = server.send("/v1/responses", body)
        assert reply.status == 400
        message = reply.json()["error"]["message"]
        assert message == "input[0].content: only the user's messages can have images"
