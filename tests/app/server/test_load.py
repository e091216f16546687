"""Many clients at once, some of which disconnect before the end."""

import base64
import contextlib
import gc
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402

CLIENTS, REQUESTS = 16, 200
TOKENS = 6
QUESTIONS = ["What is it?", "Describe the image.", "How many?", "Is it day or night?"]


@pytest.fixture(scope="module")
def server(reference: Path) -> Iterator[RunningServer]:
    with running(reference / "llava-mini", limits=Limits(waiting=64)) as started:
        yield started


@pytest.fixture(scope="module")
def asked(reference: Path, images: Path) -> list[tuple[dict[str, Any], str]]:
    """Requests, and what `chat` answers to them."""
    from fastvlm_mlx import load

    model = load(reference / "llava-mini")
    paths = [images / name for name in ("coffee.png", "rocket.jpg")]
    pairs = []
    for path in (None, *paths):
        for question in QUESTIONS:
            parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
            if path is not None:
                data = base64.b64encode(path.read_bytes()).decode()
                url = {"url": f"data:image/png;base64,{data}"}
                parts.append({"type": "image_url", "image_url": url})
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": parts}],
                "max_tokens": TOKENS,
            }
            shown = [] if path is None else [path]
            pairs.append((body, model.ask(question, shown, max_tokens=TOKENS)))
    return pairs


def ask(server: RunningServer, body: dict[str, Any], wanted: str, fate: str) -> str:
    """Sends one request, read to its end or not; returns its outcome."""
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = {**body, "stream": fate != "whole"}
    if fate == "cut":
        body["max_tokens"] = 4000
    with contextlib.closing(link):
        link.request("POST", "/v1/chat/completions", json.dumps(body))
        if fate == "gone":
            return fate
        answer = link.getresponse()
        if answer.status != 200:
            assert answer.status == 503 and answer.getheader("retry-after")
            return "refused"
        if fate == "whole":
            assert json.load(answer)["choices"][0]["message"]["content"] == wanted
            return fate
        text = ""
        for line in answer:
            if line.startswith(b"data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            if fate == "cut" and len(text) >= 4:
                break
        assert text == wanted if fate == "streamed" else text[:4] == wanted[:4]
        return fate


def at_rest(server: RunningServer) -> int:
    """Bytes that MLX holds once all is answered."""
    deadline = time.monotonic() + 30
    while server.worker.waiting and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.worker.waiting == 0
    gc.collect()
    return mx.get_active_memory()


def test_many_clients_at_once(
    server: RunningServer, asked: list[tuple[dict[str, Any], str]]
):
    for body, wanted in asked:  # fills the caches
        assert ask(server, body, wanted, "whole") == "whole"
    level = at_rest(server)

    chance = random.Random(7)
    outcomes = ["whole"] * 4 + ["streamed"] * 4 + ["cut", "gone"]
    work = [(*chance.choice(asked), chance.choice(outcomes)) for _ in range(REQUESTS)]
    threads = threading.active_count()
    with ThreadPoolExecutor(CLIENTS) as pool:
        ends = list(pool.map(lambda one: ask(server, *one), work))

    assert len(ends) == REQUESTS
    assert ends == [fate for *_, fate in work]  # the queue holds 16: none is refused
    assert {"whole", "streamed", "cut", "gone"} <= set(ends)
    # What was cut off is remembered too, as far as it was read.
    assert at_rest(server) <= level + (8 << 20)
    # asyncio's pool for reading bodies grows to its own limit, and no further.
    assert threading.active_count() <= threads + 4 + (os.cpu_count() or 1)
    assert server.ask().status == 200


def test_requests_are_taken_up_in_order(server: RunningServer, monkeypatch):
    worker = server.worker
    take_up, taken = worker._take_up, []
    everyone_waits = threading.Event()

    def recorded(engine: Any):
        assert everyone_waits.wait(30)
        answers = take_up(engine)
        taken.extend(each.stream for each in answers)
        return answers

    monkeypatch.setattr(worker, "_take_up", recorded)
    with ThreadPoolExecutor(6) as pool:
        replies = []
        for number in range(6):
            replies.append(pool.submit(server.ask, f"Number {number}", max_tokens=8))
            while worker.waiting <= number:
                time.sleep(0.005)
        arrived = [*worker._queue]
        everyone_waits.set()
        assert [reply.result().status for reply in replies] == 6 * [200]
    assert taken == arrived and len(arrived) == 6


def test_a_full_queue_refuses_and_recovers(reference: Path):
    with running(reference / "llava-mini", limits=Limits(waiting=2)) as server:
        with ThreadPoolExecutor(24) as pool:
            asks = [pool.submit(server.ask, max_tokens=300) for _ in range(24)]
            statuses = [one.result().status for one in asks]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 2
        assert server.ask().status == 200


def test_too_many_connections_are_refused_as_documented(reference: Path):
    with running(reference / "llava-mini", limits=Limits(connections=3)) as server:
        address = ("127.0.0.1", server.port)
        with contextlib.ExitStack() as idle:
            for _ in range(2):
                idle.enter_context(
                    contextlib.closing(socket.create_connection(address))
                )
            time.sleep(0.1)
            assert server.ask().status == 200  # the third
            idle.enter_context(contextlib.closing(socket.create_connection(address)))
            time.sleep(0.1)
            reply = server.ask()
            assert reply.status == 503 and int(reply.headers["retry-after"]) > 0
            assert reply.json()["error"]["code"] == "server_busy"
            assert reply.headers["x-content-type-options"] == "nosniff"
            reply = server.send("/api/tags")
            assert reply.status == 503 and "connections" in reply.json()["error"]
        deadline = time.monotonic() + 5
        while server.ask().status != 200:
            assert time.monotonic() < deadline


def test_shutting_down_ends_what_is_under_way(reference: Path):
    with running(reference / "llava-mini") as server:
        with ThreadPoolExecutor(3) as pool:
            asks = [pool.submit(server.ask, max_tokens=8000) for _ in range(3)]
            # Three accepted, and one of them taken up.
            while server.worker.waiting < 3 or not server.worker._active:
                time.sleep(0.01)
            started = time.monotonic()
            server.worker.close()
            replies = [one.result() for one in asks]
        assert time.monotonic() - started < 10
        # The one that had started as well: half an answer would pass for a whole one.
        assert [reply.status for reply in replies] == [503, 503, 503]
        for reply in replies:
            assert "shutting down" in reply.json()["error"]["message"]
            assert int(reply.headers["retry-after"]) > 0
        assert server.ask().status == 503
