"""The end of `fastvlm-mlx serve`: signals with answers open."""

import json
import signal
import socket
import threading

import pytest

pytest.importorskip("starlette")

from tests.support.serve_process import (  # noqa: E402
    SECONDS,
    Program,
    chat,
    check_log,
    check_refused,
    messages,
    ollama,
    response,
    wait_for,
)

# One signal, the same twice at all distances, and another one in between. A start takes
# seconds: what "again and again" or another test holds as well is slow.
SIGNALS = {
    "SIGTERM": ([signal.SIGTERM], 0.0),
    "SIGINT": ([signal.SIGINT], 0.0),
    "SIGHUP": ([signal.SIGHUP], 0.0),
    "SIGINT twice at once": ([signal.SIGINT] * 2, 0.0),
    "SIGINT twice": ([signal.SIGINT] * 2, 0.15),
    "SIGTERM twice": ([signal.SIGTERM] * 2, 0.15),
    "SIGTERM and SIGINT": ([signal.SIGTERM, signal.SIGINT], 0.15),
    "SIGINT again and again": ([signal.SIGINT] * 40, 0.02),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.slow if "twice" in name or name == "SIGINT" else (),
        )
        for name in SIGNALS
    ],
)
def test_open_answers_end_as_documented(served: Program, name: str):
    of_openai = served.send("/v1/chat/completions", chat(stream=True)).getresponse()
    assert of_openai.status == 200 and of_openai.readline().startswith(b"data: {")
    queued = [
        (served.send("/v1/chat/completions", chat(stream=True)), True),
        (served.send("/v1/chat/completions", chat()), True),
        (served.send("/api/chat", ollama()), False),
        (served.send("/api/generate", {"model": "demo", "prompt": "Hi"}), False),
    ]
    wait_for(lambda: served.waiting() == 5)
    signals, pause = SIGNALS[name]
    took = served.end(*signals, pause=pause)
    events = of_openai.read().decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert error["code"] == "server_busy" and "shutting down" in error["message"]
    # No event pretends that the answer is whole.
    assert '"finish_reason":"' not in "".join(events)
    for link, kind in queued:
        check_refused(link, of_openai=kind)
    assert served.process.returncode == 0
    assert took < max(SECONDS, len(signals) * pause + 0.5)
    check_log(served)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=1)


def test_a_stream_of_ollama_ends_with_an_error(served: Program):
    reply = served.send("/api/chat", ollama()).getresponse()
    assert reply.status == 200 and json.loads(reply.readline())["done"] is False
    whole = served.send("/v1/chat/completions", chat())
    wait_for(lambda: served.waiting() == 2)
    assert served.end(signal.SIGTERM) < SECONDS
    last = json.loads(reply.read().splitlines()[-1])
    assert last["done"] is True and last["done_reason"] == "error"
    assert "shutting down" in last["error"]
    check_refused(whole, of_openai=True)
    check_log(served)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/messages", messages), ("/v1/responses", response)]
)
def test_a_stream_of_named_events_ends_with_an_error(served: Program, path, body):
    reply = served.send(path, body(stream=True)).getresponse()
    assert reply.status == 200 and reply.readline().startswith(b"event: ")
    whole = served.send(path, body())
    wait_for(lambda: served.waiting() == 2)
    assert served.end(signal.SIGTERM) < SECONDS
    events = [event.split("\n") for event in reply.read().decode().split("\n\n")[:-1]]
    # No event pretends that the answer is whole.
    kinds = {event[0] for event in events}
    assert not {"event: message_stop", "event: response.completed"} & kinds
    before, last = (
        json.loads(event[1].removeprefix("data: ")) for event in events[-2:]
    )
    if body is messages:
        assert events[-1][0] == "event: error" and last["type"] == "error"
        assert last["error"]["type"] == "overloaded_error"
        assert "shutting down" in last["error"]["message"]
    else:
        assert before["type"] == "error" and before["code"] == "server_busy"
        assert before["sequence_number"] + 1 == last["sequence_number"]
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert "shutting down" in before["message"]
        assert "shutting down" in last["response"]["error"]["message"]
    refused = whole.getresponse()
    error = json.load(refused)["error"]
    assert refused.status == 503 and "shutting down" in error["message"]
    check_log(served)


def test_a_whole_answer_that_was_cut_is_refused(served: Program):
    link = served.send("/v1/chat/completions", chat())
    wait_for(lambda: served.waiting() == 1)
    assert served.end(signal.SIGINT) < SECONDS
    check_refused(link, of_openai=True)
    assert served.process.returncode == 0


def test_many_clients_are_all_told(served: Program):
    """Streams, whole answers and queued requests of both protocols at once."""
    ends: list[str] = []

    def ask(number: int):
        stream = number % 2 == 0
        path, body = (
            ("/v1/chat/completions", chat(stream=stream))
            if number % 4 < 2
            else ("/api/chat", ollama(stream=stream))
        )
        try:
            reply = served.send(path, body).getresponse()
            data = reply.read()
        except ConnectionError:
            ends.append("connection")  # it came after the end
            return
        if reply.status == 503:
            ends.append("503" if reply.headers["Retry-After"] else "no Retry-After")
        elif not stream:
            ends.append("whole")
        elif path.startswith("/v1"):
            ends.append("ended" if data.endswith(b"data: [DONE]\n\n") else "cut")
        else:
            ends.append("ended" if json.loads(data.splitlines()[-1])["done"] else "cut")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    wait_for(lambda: served.waiting() > 10)
    took = served.end(signal.SIGINT, signal.SIGINT, pause=0.1)
    for thread in threads:
        thread.join()
    assert took < SECONDS and served.process.returncode == 0
    assert set(ends) <= {"503", "whole", "ended", "connection"} and "503" in ends
    check_log(served)
