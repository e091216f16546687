"""What the middleware of `http/access.py` reads, sends, holds and logs."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from fastvlm_mlx.app.server.error_responses import error_response  # noqa: E402
from fastvlm_mlx.app.server.http import access  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402

MAX_DRAIN = 9
RIGHT = {"host": "localhost", "authorization": "Bearer t"}


def call(app: ASGIApp, parts: int = 1, **options: Any) -> tuple[list[Message], int]:
    """What `app` sends for a request of `parts` messages, and how many it read."""
    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": []}
    headers = options.pop("headers", {})
    scope |= options
    scope["headers"] = [(n.encode(), v.encode()) for n, v in headers.items()]
    sent: list[Message] = []
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x", "more_body": read < parts}

    async def send(message: Message):
        sent.append(message)

    async def run():
        await app(scope, receive, send)

    asyncio.run(run())
    return sent, read


def guarded(token: str | None = "t") -> ASGIApp:
    return access.AccessMiddleware(
        PlainTextResponse("inside"),
        hosts=("localhost",),
        token=token,
        max_drain=MAX_DRAIN,
        error_response=error_response,
    )


def status(app: ASGIApp, path: str = "/v1/x", **headers: str) -> int:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(app, path=path, headers=headers)[0][0]["status"]


@pytest.mark.parametrize(
    ("headers", "read"),
    [
        ({"content-length": "9"}, 3),
        ({"content-length": "1"}, 3),
        ({"content-length": "10"}, 0),
        ({"content-length": "0"}, 0),
        ({"content-length": "-3"}, 0),
        ({"content-length": "x"}, 0),
        ({}, 0),
        ({"content-length": "9", "expect": "100-continue"}, 0),
    ],
)
def test_a_small_body_is_read_before_a_refusal(headers, read):
    sent, found = call(guarded(), parts=3, headers={"host": "evil", **headers})
    assert sent[0]["status"] == 403 and found == read


def test_a_body_that_never_ends_is_not_waited_for(monkeypatch):
    waited = []

    async def soon(task: Any, seconds: float):
        waited.append(seconds)
        task.close()
        raise TimeoutError

    monkeypatch.setattr(access.asyncio, "wait_for", soon)
    sent, _ = call(guarded(), headers={"host": "evil", "content-length": "5"})
    assert sent[0]["status"] == 403 and waited == [1]


def test_who_is_let_in():
    app, right = guarded(), {"host": "localhost", "authorization": "bearer  t "}
    assert status(app, **right) == 200
    assert status(app, host="localhost") == 401
    for authorization in (
        "Bearer",
        "Bearer ",
        "Basic t",
        "Bearer tt",
        "t",
        "Bearer \xfc",
    ):
        assert status(app, **{**right, "authorization": authorization}) == 401
    # The page is public; so is every path that does not run the model.
    for path in ("/", "/page.js", "/v1", "/apix", "/x/v1/"):
        assert status(app, path, host="localhost") == 200
    for path in ("/v1/", "/api/tags"):
        assert status(app, path, host="localhost") == 401
    assert status(guarded(None), host="localhost") == 200
    assert status(guarded(None)) == 403  # no Host at all


def test_pages_of_other_sites():
    app = guarded(None)
    cross = {"host": "localhost", "sec_fetch_site": "cross-site"}
    assert status(app, **cross) == 403
    assert status(app, "/", **cross) == 200  # a link to the page
    assert status(app, "/", origin="http://evil", **cross) == 403
    assert status(app, "/", origin="http://localhost", **cross) == 403
    same = {"host": "localhost", "sec_fetch_site": "same-origin"}
    assert status(app, origin="http://localhost", **same) == 200
    assert status(app, origin="http://evil", **same) == 403
    assert status(app, "/", origin="null", **same) == 403


def test_what_a_refusal_is_called():
    cases: list[tuple[dict[str, str], bytes]] = [
        ({"host": "evil"}, b"host_not_allowed"),
        ({**RIGHT, "origin": "http://evil"}, b"origin_not_allowed"),
        ({"host": "localhost"}, b"invalid_api_key"),
    ]
    for headers, code in cases:
        sent, _ = call(guarded(), headers=headers)
        assert code in sent[1]["body"]


def responds(code: int) -> ASGIApp:
    return PlainTextResponse("x", code)


@pytest.mark.parametrize(
    ("code", "method", "closed"),
    [(400, "POST", True), (399, "POST", False), (500, "POST", True)]
    + [(404, "GET", False), (200, "POST", False)],
)
def test_a_connection_is_closed_after_a_refused_body(code, method, closed):
    app = access.SecurityHeadersMiddleware(responds(code))
    sent, _ = call(app, method=method)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert (headers.get("connection") == "close") is closed
    assert access.SECURITY_HEADERS.items() <= headers.items()


def test_a_header_of_the_application_stays():
    inside = PlainTextResponse("x", headers={"referrer-policy": "origin"})
    sent, _ = call(access.SecurityHeadersMiddleware(inside))
    assert (b"referrer-policy", b"origin") in sent[0]["headers"]
    assert (b"referrer-policy", b"no-referrer") not in sent[0]["headers"]


async def fails_late(scope: Scope, receive: Receive, send: Send):
    await send({"type": "http.response.start", "status": 206, "headers": []})
    raise ValueError("a secret")


@pytest.mark.parametrize(
    ("app", "options", "line"),
    [
        (responds(200), {}, "POST /v1/x 200 0.00 s"),
        (responds(404), {"path": "/secret"}, "POST ? 404 0.00 s"),
        (responds(405), {"method": "TRACE"}, "? /v1/x 405 0.00 s"),
        (responds(200), {"method": "OPTIONS"}, "OPTIONS /v1/x 200 0.00 s"),
        (fails_late, {}, "POST /v1/x 206 0.00 s"),
    ],
)
def test_one_line_a_request(app, options, line, caplog):
    logged = access.RequestLogMiddleware(
        app, paths=("/v1/x",), error_response=error_response
    )
    with caplog.at_level(logging.INFO):
        sent, _ = call(logged, **options)
    found = [each.getMessage() for each in caplog.records if " s" in each.getMessage()]
    assert [each[:-6] for each in found] == [line[:-6]]
    assert 0 <= float(found[0].split()[-2]) < 5  # seconds, not the clock
    assert "secret" not in caplog.text
    # A response that has begun is not followed by another.
    assert [each["type"] for each in sent].count("http.response.start") == 1


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda app: access.RequestLogMiddleware(
            app, paths=(), error_response=error_response
        ),
        access.SecurityHeadersMiddleware,
        lambda app: access.BodyMemoryMiddleware(app, limit=0),
        lambda app: access.AccessMiddleware(
            app, hosts=(), token="t", max_drain=0, error_response=error_response
        ),
    ],
)
def test_what_is_no_request(kind: str, wrap: Callable[[ASGIApp], ASGIApp]):
    seen = []

    async def inside(scope: Scope, receive: Receive, send: Send):
        seen.append((scope["type"], await receive()))
        await send({"type": "done"})

    sent, _ = call(wrap(inside), type=kind)
    logs = isinstance(wrap(inside), access.RequestLogMiddleware)
    # The outermost lets no other protocol in.
    passed = kind == "lifespan" or not logs
    assert [each for each, _ in seen] == [kind] * passed
    assert len(sent) == passed


def test_bodies_that_are_held_together():
    app = None

    async def both(scope: Scope, receive: Receive, send: Send):
        for _ in range(2):
            await receive()
        assert app is not None
        if scope["path"] == "/outer":
            with pytest.raises(APIError):  # two are held, and four is the limit
                call_inside(app, 3)
            call_inside(app, 2)
        await PlainTextResponse("read")(scope, receive, send)

    def call_inside(app: ASGIApp, size: int):
        async def receive() -> Message:
            return {"type": "http.request", "body": b"x" * size}

        async def none(message: Message):
            pass

        async def one(scope: Scope, receive: Receive, send: Send):
            await receive()

        inner = access.BodyMemoryMiddleware(one, limit=0)
        inner._memory = app._memory  # type: ignore[attr-defined]
        scope = {"type": "http", "path": "/inner"}
        coroutine = inner(scope, receive, none)
        try:
            coroutine.send(None)
        except StopIteration:
            pass

    app = access.BodyMemoryMiddleware(both, limit=4)
    assert call(app, parts=2, path="/outer")[0][0]["status"] == 200
    assert app._memory._held == 0


def test_a_refused_body_whose_client_is_gone_is_not_read_on():
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.disconnect"}

    async def send(message: Message):
        pass

    headers = [(b"host", b"evil"), (b"content-length", b"5")]
    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": headers}
    asyncio.run(guarded()(scope, receive, send))  # type: ignore[arg-type]
    assert read == 1


@pytest.mark.parametrize(
    ("headers", "named"),
    [({}, "(none)"), ({"host": "/"}, "(none)"), ({"host": "Evil.:80"}, "(evil)")],
)
def test_the_name_that_is_not_known_is_said(headers, named):
    sent, _ = call(guarded(), headers=headers)
    assert f"in the Host header {named}; start it with".encode() in sent[1]["body"]


def test_a_head_request_is_logged_by_its_name(caplog):
    logged = access.RequestLogMiddleware(
        responds(200), paths=("/v1/x",), error_response=error_response
    )
    with caplog.at_level(logging.INFO):
        for method in ("GET", "HEAD"):
            call(logged, method=method)
    assert [each.getMessage().split()[0] for each in caplog.records] == ["GET", "HEAD"]
