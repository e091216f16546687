"""Bodies as clients send them: encodings, halves of emojis, packed, malformed."""

import gzip
import json

import pytest

pytest.importorskip("starlette")

from tests.support.serving import Response, RunningServer  # noqa: E402

ASKED = (
    '{"model":"tiny","messages":[{"role":"user","content":"H\u00e9"}],"max_tokens":4}'
)


def said(reply: Response) -> str:
    assert reply.status == 200, reply.body
    return reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings_of_unicode(server: RunningServer, encoding: str):
    body = ASKED.encode(encoding)
    assert said(server.send("/v1/chat/completions", body)) == said(
        server.ask("H\u00e9")
    )


def test_bodies_that_are_no_json(server: RunningServer):
    for body, message in (
        (ASKED.encode("latin-1"), "the body is not text in UTF-8; send JSON"),
        (gzip.compress(ASKED.encode()), "the body is not text in UTF-8; send JSON"),
        (b"", "the body is empty; send JSON"),
        (b" \r\n", "the body is empty; send JSON"),
        (b'{"model":}', "the body is not valid JSON (line 1, column 10)"),
        (b"model=tiny", "the body is not valid JSON (line 1, column 1)"),
        (b'{"a":' * 5000, "the body is nested too deeply"),
    ):
        for path in ("/v1/chat/completions", "/api/chat", "/api/show"):
            reply = server.send(path, body)
            error = reply.json()["error"]
            shown = error if isinstance(error, str) else error["message"]
            assert (reply.status, shown) == (400, message)


def test_packed_bodies(server: RunningServer):
    send = server.send
    for coding in ("gzip", "br", " GZIP "):
        body = gzip.compress(ASKED.encode())
        reply = send("/v1/chat/completions", body, content_encoding=coding)
        message = f"Content-Encoding {coding.strip()}: send the body as it is"
        assert reply.status == 415 and reply.json()["error"]["message"] == message
    for coding in ("", "identity", "gzip"):
        body = ASKED.encode()
        assert said(send("/v1/chat/completions", body, content_encoding=coding))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"Hi \ud83d there", "Hi \ufffd there"),
        (r"\ude00\ud83d", "\ufffd\ufffd"),
        (r"\uD83D\uDE00\uD83D", "\U0001f600\ufffd"),
        (r"\\ud83d \\\ud83d", "\\ud83d \\\ufffd"),
        (r"\ud83dA\ud83d\ud83d\ude00", "\ufffdA\ufffd\U0001f600"),
        (r"\"\ud83d\"\n", '"\ufffd"\n'),
    ],
)
def test_half_an_emoji(server: RunningServer, written: str, read: str):
    whole = (
        '{"model":"tiny","max_tokens":4,"messages":[{"role":"user","content":"%s"}]}'
    )
    wanted = said(server.ask(read))
    for start in (b"", b"\xef\xbb\xbf", b" \n"):
        reply = server.send("/v1/chat/completions", start + (whole % written).encode())
        assert said(reply) == wanted
        assert (
            reply.json()["usage"]["prompt_tokens"]
            == (server.ask(read).json()["usage"]["prompt_tokens"])
        )
    body = '{"model":"tiny","prompt":"%s","stream":false,"options":{"num_predict":4}}'
    reply = server.send("/api/generate", (body % written).encode())
    assert reply.json()["response"] == wanted


def test_half_an_emoji_everywhere(server: RunningServer):
    """As a name, a key and an unknown field: refused or taken, never a 500."""
    half = "\ud83d"
    for fields in (
        {half: 1},
        {half: None},
        {"user": half},
        {"metadata": {half: half}},
        {"model": half},
        {"stop": [half]},
        {"messages": [{"role": half, "content": "Hi"}]},
        {"response_format": {"type": half}},
    ):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
        reply = server.send(
            "/v1/chat/completions",
            json.dumps({**body, "max_tokens": 2, **fields}).encode(),
        )
        assert reply.status in (200, 400, 404), reply.body
