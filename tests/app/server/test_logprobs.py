"""Log-probabilities over both protocols, read by the real clients."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

openai = pytest.importorskip("openai")
ollama = pytest.importorskip("ollama")

from fastvlm_mlx import load  # noqa: E402
from fastvlm_mlx.adapters.apply import with_adapter  # noqa: E402
from fastvlm_mlx.adapters.files import write_adapter  # noqa: E402
from fastvlm_mlx.adapters.spec import AdapterSpec  # noqa: E402
from fastvlm_mlx.app.server.api.openapi import describe  # noqa: E402
from fastvlm_mlx.app.server.api.token_logprobs import written  # noqa: E402
from fastvlm_mlx.generation.constrained import JSONConstraint  # noqa: E402
from fastvlm_mlx.generation.logprobs import TokenLogprob  # noqa: E402
from tests.support.full_pass import full_logprobs  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402
from tests.support.small_adapters import make_adapter  # noqa: E402

ASKED = "Say something."
MESSAGES = [{"role": "user", "content": ASKED}]
CLOSE = 1e-4


@pytest.fixture
def gpt(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        yield client.chat.completions


@pytest.fixture
def llama(server: RunningServer) -> Iterator[Any]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


def question(**options: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, **options}


def own(model: Any, **options: Any) -> list[TokenLogprob]:
    chunks = model.stream(ASKED, **{"max_tokens": 12, **options})
    return [each for chunk in chunks for each in chunk.logprobs or ()]


def same(content: Any, wanted: list[TokenLogprob]) -> None:
    """What a client read is what the library says."""
    assert [entry.token for entry in content] == [entry.text for entry in wanted]
    for one, other in zip(content, wanted, strict=True):
        assert one.bytes == (None if other.utf8 is None else list(other.utf8))
        assert one.logprob == pytest.approx(other.logprob, abs=CLOSE)
        assert [each.token for each in one.top_logprobs] == [
            each.text for each in other.top
        ]
        for each, top in zip(one.top_logprobs, other.top, strict=True):
            assert each.logprob == pytest.approx(top.logprob, abs=CLOSE)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {}),
        ({"temperature": 1.3, "seed": 7},) * 2,
        ({"temperature": 0.8, "seed": 2, "top_p": 0.5},) * 2,
        ({"extra_body": {"repetition_penalty": 1.5}}, {"repetition_penalty": 1.5}),
        ({"stop": ["e", "a"]}, {"stop": ["e", "a"]}),
    ],
)
def test_the_openai_client_reads_them(gpt, tiny_model, asked, options):
    asked = question(logprobs=True, top_logprobs=4, **asked)
    whole = gpt.create(**asked).choices[0]
    wanted = own(tiny_model, top_logprobs=4, **options)
    same(whole.logprobs.content, wanted)
    assert whole.logprobs.refusal is None
    read, said = [], ""
    for chunk in gpt.create(**asked, stream=True):
        (choice,) = chunk.choices
        if choice.logprobs is not None:
            assert choice.logprobs.content and choice.delta.content
            read += choice.logprobs.content
        said += choice.delta.content or ""
    assert read == whole.logprobs.content
    assert said == whole.message.content
    if "stop" not in options:
        spelled = b"".join(bytes(entry.bytes or ()) for entry in read)
        assert spelled.decode("utf-8", "replace") == said


def test_they_are_those_of_a_full_forward_pass(gpt, tiny_model):
    top = 20
    answer = gpt.create(**question(logprobs=True, top_logprobs=top)).choices[0]
    chat = tiny_model.conversation()
    chat.ask(ASKED, max_tokens=12)
    *prompt, ids = chat.state.pieces
    rows = full_logprobs(tiny_model, prompt, ids)
    for entry, row, token in zip(answer.logprobs.content, rows, ids, strict=False):
        assert entry.logprob == pytest.approx(row[token], abs=CLOSE)
        found = [each.logprob for each in entry.top_logprobs]
        np.testing.assert_allclose(found, np.sort(row)[::-1][:top], atol=CLOSE)
        # Greedy: the token is the likeliest listed.
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == entry.logprob
    assert len(answer.logprobs.content) == 12


def test_the_clients_own_gathering_of_a_stream(gpt):
    whole = gpt.create(**question(logprobs=True, top_logprobs=2)).choices[0]
    with gpt.stream(**question(logprobs=True, top_logprobs=2)) as stream:
        kinds = [event.type for event in stream]
        gathered = stream.current_completion_snapshot.choices[0]
    assert "logprobs.content.delta" in kinds
    assert gathered.logprobs.content == whole.logprobs.content
    assert gathered.message.content == whole.message.content


@pytest.mark.parametrize("stream", [False, True])
def test_only_tokens_whose_text_is_shown(gpt, tiny_model, stream):
    text = tiny_model.ask(ASKED, max_tokens=12)
    stop = text[5:8]
    asked = question(logprobs=True, stop=[stop])
    if stream:
        chunks = [chunk.choices[0] for chunk in gpt.create(**asked, stream=True)]
        shown = "".join(choice.delta.content or "" for choice in chunks)
        lists = [choice.logprobs.content for choice in chunks if choice.logprobs]
        content = [entry for entries in lists for entry in entries]
    else:
        choice = gpt.create(**asked).choices[0]
        shown, content = choice.message.content, choice.logprobs.content
    assert shown == text[: text.index(stop)] and content
    *before, last = [bytes(entry.bytes) for entry in content]
    whole = b"".join([*before, last]).decode("utf-8", "replace")
    assert whole.startswith(shown)
    assert len(b"".join(before).decode("utf-8", "replace")) < len(shown)


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["photo", "drawing"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.2])
def test_beside_a_schema_they_are_of_the_allowed_tokens(gpt, tiny_model, temperature):
    form = {"name": "image", "schema": SCHEMA}
    options = {"temperature": temperature, "seed": 3, "max_tokens": 40}
    answer = gpt.create(
        **question(
            logprobs=True,
            top_logprobs=8,
            response_format={"type": "json_schema", "json_schema": form},
            **options,
        )
    ).choices[0]
    rule = JSONConstraint(tiny_model, SCHEMA)
    wanted = own(tiny_model, top_logprobs=8, constraint=rule, **options)
    same(answer.logprobs.content, wanted)
    spelled = b"".join(bytes(entry.bytes) for entry in answer.logprobs.content)
    assert json.loads(spelled) == json.loads(answer.message.content)
    # Somewhere only some tokens were allowed, and these have all of the probability.
    few = [e for e in answer.logprobs.content if len(e.top_logprobs) < 8]
    assert few
    for entry in few:
        total = sum(np.exp(each.logprob) for each in entry.top_logprobs)
        assert total == pytest.approx(1, abs=1e-3)


def test_each_adapter_has_its_own(reference, tmp_path):
    model = load(reference / "llava-mini")
    adapter = make_adapter(model, AdapterSpec(rank=3), 0.5)
    write_adapter(tmp_path / "flags", adapter)
    with running(reference / "llava-mini", adapters=[tmp_path / "flags"]) as server:
        read = [
            server.ask(model=name, logprobs=True, max_tokens=4).json()["choices"][0]
            for name in ("tiny", "tiny:flags")
        ]
    for each, wanted in zip(read, (model, with_adapter(model, adapter)), strict=True):
        found = [entry["logprob"] for entry in each["logprobs"]["content"]]
        entries = own(wanted, top_logprobs=0, max_tokens=4)
        assert found == pytest.approx([e.logprob for e in entries], abs=CLOSE)
    assert read[0]["logprobs"] != read[1]["logprobs"]


def test_nobody_asked(server):
    for fields in ({}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}):
        assert server.ask(**fields).json()["choices"][0]["logprobs"] is None
        events = server.ask(stream=True, **fields).body.decode()
        assert '"logprobs":null' in events and '"logprobs":{' not in events
    body = {"model": "tiny", "prompt": "Hi", "options": {"num_predict": 3}}
    for fields in ({}, {"logprobs": False}, {"top_logprobs": 3}):
        assert b"logprobs" not in server.send("/api/generate", {**body, **fields}).body


def test_no_likely_tokens_unless_asked(gpt):
    for options in ({}, {"top_logprobs": 0}, {"top_logprobs": None}):
        answer = gpt.create(**question(logprobs=True, **options)).choices[0]
        assert len(answer.logprobs.content) == 12
        assert all(entry.top_logprobs == [] for entry in answer.logprobs.content)


BAD: dict[str, dict[str, Any]] = {
    "top_logprobs: give a whole number from 0 to 20": {"top_logprobs": 21},
    "top_logprobs: give a whole number from 0 to 20 ": {"top_logprobs": -1},
    "top_logprobs: give a whole number from 0 to 20  ": {"top_logprobs": 2.5},
    "top_logprobs: give a whole number from 0 to 20   ": {"top_logprobs": "5"},
    "top_logprobs: give a whole number from 0 to 20    ": {"top_logprobs": True},
    "logprobs: give true or false": {"logprobs": 5},
    "logprobs: give true or false ": {"logprobs": "true"},
    "logprobs: give true or false  ": {"logprobs": [True]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_values(server, message):
    wanted = message.rstrip()
    fields = {"logprobs": True, **BAD[message]}
    reply = server.ask(**fields)
    error = reply.json()["error"]
    assert (reply.status, error["message"]) == (400, wanted)
    assert error["param"] == wanted.partition(":")[0]
    assert (error["code"], error["type"]) == ("invalid_value", "invalid_request_error")
    body = {"model": "tiny", "prompt": "Hi", **fields}
    reply = server.send("/api/generate", body)
    assert (reply.status, reply.json()) == (400, {"error": wanted})
    body = {"model": "tiny", "messages": question()["messages"], **fields}
    reply = server.send("/api/chat", body)
    assert (reply.status, reply.json()) == (400, {"error": wanted})


@pytest.mark.parametrize("logprobs", [False, None])
def test_likely_tokens_alone_are_refused(gpt, logprobs):
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.create(**question(logprobs=logprobs, top_logprobs=3))
    assert caught.value.param == "top_logprobs"
    assert caught.value.body["message"] == (
        "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
    )


def test_the_ollama_client_reads_them(server, llama, tiny_model):
    wanted = own(tiny_model, top_logprobs=3)
    options = {"num_predict": 12}
    asked = {"model": "tiny", "logprobs": True, "top_logprobs": 3, "options": options}
    messages = question()["messages"]
    for answer, pieces in (
        (
            llama.chat(messages=messages, **asked),
            llama.chat(messages=messages, stream=True, **asked),
        ),
        (
            llama.generate(prompt=ASKED, **asked),
            llama.generate(prompt=ASKED, stream=True, **asked),
        ),
    ):
        read = [entry for piece in pieces for entry in piece.logprobs or ()]
        assert read == answer.logprobs
        assert [entry.token for entry in read] == [entry.text for entry in wanted]
        for one, other in zip(read, wanted, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=CLOSE)
            assert [each.token for each in one.top_logprobs or ()] == [
                each.text for each in other.top
            ]
    body = {"prompt": ASKED, "stream": False, **asked}
    raw = server.send("/api/generate", body).json()["logprobs"]
    assert [bytes(entry["bytes"]) for entry in raw] == [e.utf8 for e in wanted]
    assert set(raw[0]) == {"token", "logprob", "bytes", "top_logprobs"}
    assert set(raw[0]["top_logprobs"][0]) == {"token", "logprob", "bytes"}
    body["top_logprobs"] = 0
    raw = server.send("/api/generate", body).json()["logprobs"]
    assert set(raw[0]) == {"token", "logprob", "bytes"}


def test_the_last_line_of_ollama_has_none(server):
    body = {"model": "tiny", "prompt": ASKED, "logprobs": True}
    reply = server.send("/api/generate", {**body, "options": {"num_predict": 4}})
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert sum(len(line.get("logprobs", ())) for line in lines) == 4
    assert lines[-1]["done"] and "logprobs" not in lines[-1]


def test_control_tokens_and_what_cannot_be():
    end = TokenLogprob(7, "<|im_end|>", None, float("-inf"))
    ((token, (other,)),) = written([TokenLogprob(1, "\ufffd", b"\xe4", -0.5, (end,))])
    assert token == {"token": "\ufffd", "logprob": -0.5, "bytes": [0xE4]}
    assert other == {"token": "<|im_end|>", "logprob": -9999.0, "bytes": None}


def test_the_description_of_the_server_has_them():
    schemas = describe()["components"]["schemas"].values()
    found = [p for each in schemas if "top_logprobs" in (p := each["properties"])]
    assert len(found) == 4
    for most in (json.dumps(properties["top_logprobs"]) for properties in found):
        assert '"maximum": 20' in most and '"minimum": 0' in most
