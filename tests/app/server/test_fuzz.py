"""Requests generated from the OpenAPI description; none may cause a 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fastvlm_mlx.app.server.api.openapi import describe  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from tests.support.openapi_strategy import Strategies  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402

FEW, MANY = 60, 1000
# An image of 1 x 1 pixel.
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kg"
    "AAAABJRU5ErkJggg=="
)
KNOWN: dict[str, Any] = {
    "model": st.sampled_from(["tiny"] * 8 + ["tiny:latest", "other"]),
    "name": st.sampled_from(["tiny", "image", ""]),
    "url": st.sampled_from(
        [f"data:image/png;base64,{DOT}"] * 4 + ["http://a.invalid/"]
    ),
    "max_tokens": st.sampled_from([1, 4, 4.0, 0, -1, "4", None]),
    "data": st.sampled_from([DOT, DOT, "AAAA", "?"]),
    "images": st.lists(st.sampled_from([DOT, DOT, "AAAA", "?"]), max_size=2),
}


@pytest.fixture(scope="module")
def server(reference: Path) -> Iterator[RunningServer]:
    with running(reference / "llava-mini", limits=Limits(answer_time=0.3)) as started:
        yield started


def operations() -> st.SearchStrategy[tuple[str, str, Any]]:
    """Method, path and body of requests to every path that is described."""
    description = describe()
    strategies = Strategies(description, KNOWN)
    choices = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            body: st.SearchStrategy[Any] = st.none()
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                body = strategies.body(content["schema"])
            named = path.replace("{name}", "tiny")
            choice = st.tuples(st.just(method.upper()), st.just(named), body)
            # The paths that take a body are where there is something to find.
            choices += [choice] * (6 if "requestBody" in operation else 1)
    return st.one_of(choices)


def check(server: RunningServer, request: tuple[str, str, Any], seen: dict[int, int]):
    method, path, body = request
    data = None if method == "GET" else json.dumps(body).encode()
    reply = server.send(path, data, method=method)
    seen[reply.status] = seen.get(reply.status, 0) + 1
    documented = describe()["paths"].get(path, {}).get(method.lower())
    if documented is not None:
        assert str(reply.status) in documented["responses"], reply.body[:300]
    assert reply.status < 500 or reply.status == 503, reply.body[:300]
    if reply.status != 200:
        error = reply.json()["error"]
        plain = path.startswith("/api/") and not path.startswith(("/api/v0", "/api/v1"))
        assert error if plain else error["message"]
        if path.startswith("/v1/messages"):
            assert reply.json()["type"] == "error" and error["type"].endswith("_error")
    elif "event-stream" in reply.headers["content-type"]:
        check_stream(path, reply.body.decode())
    else:
        assert [json.loads(line) for line in reply.body.splitlines()]


# The types of the events that may end a stream of a protocol with named events.
ENDS = {
    "/v1/messages": {"message_stop", "error"},
    "/v1/responses": {"response.completed", "response.incomplete", "response.failed"},
}


def check_stream(path: str, body: str):
    """A stream is whole, and its events are JSON."""
    events = body.split("\n\n")
    assert events[-1] == ""
    if path not in ENDS:
        assert events[-2] == "data: [DONE]"
        assert all(json.loads(event[6:])["model"] for event in events[:-2])
        return
    kinds = []
    for event in events[:-1]:
        name, data = event.split("\n")
        kinds.append(json.loads(data.removeprefix("data: "))["type"])
        assert name == f"event: {kinds[-1]}"
    assert kinds[-1] in ENDS[path]


def fuzz(server: RunningServer, count: int) -> dict[int, int]:
    seen: dict[int, int] = {}

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(operations())
    def each(request: tuple[str, str, Any]):
        check(server, request, seen)

    each()
    assert server.ask().status == 200
    return seen


def test_requests_made_from_the_description(server: RunningServer):
    seen = fuzz(server, FEW)
    # Enough of them are whole requests, and enough are not.
    assert seen[200] > FEW // 8 and seen[400] > FEW // 8


@pytest.mark.slow
def test_a_thousand_requests_made_from_the_description(server: RunningServer):
    seen = fuzz(server, MANY)
    print(seen)
    assert sum(seen.values()) >= MANY
