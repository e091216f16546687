"""Schemas before they are compiled here: their size, their process, their faults."""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine import fetch, schema_check  # noqa: E402
from fastvlm_mlx.app.server.engine.fetch import Fetcher  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.generation.json_schema import SECONDS  # noqa: E402
from fastvlm_mlx.processing import http_client, http_errors  # noqa: E402


def checked(schema: Any) -> APIError | None:
    try:
        asyncio.run(schema_check.SchemaChecker().check(schema, "format"))
    except APIError as error:
        return error
    return None


def test_a_schema_has_64_kib_of_json(monkeypatch):
    monkeypatch.setattr(schema_check, "_compile_error", lambda text: "")
    most = 64 << 10
    assert checked("x" * (most - 2)) is None
    error = checked("x" * (most - 1))
    assert error is not None and (error.status, error.code) == (400, "invalid_value")
    assert error.param == "format"
    assert str(error) == "format: 65537 characters, more than 65536"


def test_a_fault_is_the_fields(monkeypatch):
    monkeypatch.setattr(schema_check, "_compile_error", lambda text: "schema: odd")
    assert str(checked({})) == "format: odd"


def test_two_schemas_are_compiled_at_once(monkeypatch):
    now, most = 0, 0

    async def compiled(function: Any, text: str) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return ""

    monkeypatch.setattr(schema_check.asyncio, "to_thread", compiled)

    async def run():
        checker = schema_check.SchemaChecker()
        await asyncio.gather(*(checker.check({"a": n}, "x") for n in range(5)))

    asyncio.run(run())
    assert most == 2


@pytest.mark.parametrize(
    ("code", "said", "fault"),
    [
        (0, b"", ""),
        (0, b"schema: odd \xff\n", "schema: odd \ufffd"),
        (1, b"", "schema: takes too much to compile; simplify it"),
        (-9, b"x", "schema: takes too much to compile; simplify it"),
        (None, b"", "schema: takes too long to compile; simplify it"),
    ],
)
def test_what_the_process_says(monkeypatch, code: int | None, said: bytes, fault: str):
    def run(command: list[str], **options: Any) -> Any:
        assert command == [sys.executable, "-m", "fastvlm_mlx.generation.json_schema"]
        assert options["input"] == json.dumps({"a": 1}).encode()
        assert options["capture_output"] and options["timeout"] == 10 * SECONDS
        if code is None:
            raise subprocess.TimeoutExpired(command, 1)
        return SimpleNamespace(returncode=code, stdout=said)

    monkeypatch.setattr(schema_check.subprocess, "run", run)
    assert schema_check._compile_error('{"a": 1}') == fault


def at_host(error: Exception, cause: Exception | None = None) -> str:
    """What a client is told if the fetch of an image ends in `error`."""

    def fetched(url: str, policy: http_client.FetchPolicy) -> bytes:
        raise error from cause

    fetcher = Fetcher(("*",), 3 << 20, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch.http_client, "fetch", fetched)
        with pytest.raises(APIError) as caught:
            fetcher.read("http://a/")
    assert (caught.value.status, caught.value.param) == (400, "messages")
    return str(caught.value)


def test_what_a_fetch_may_do(monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(
        fetch.http_client, "fetch", lambda url, policy: given.append(policy) or b"x"
    )
    fetcher = Fetcher(("*",), 5, 7.0)
    assert fetcher.read("http://a/") == b"x"
    policy = given[0]
    assert (policy.max_bytes, policy.seconds, policy.read_timeout) == (5, 7.0, 7.0)
    assert policy.redirects == 3 and policy.proxies is False
    assert policy.check_url == fetcher._check_url


@pytest.mark.parametrize(
    ("error", "cause", "told"),
    [
        (http_errors.NoAnswer("h", "secret"), TimeoutError(), "h: no answer (Timeout"),
        (http_errors.NoAnswer("h", "secret"), None, "h: no answer (NoAnswer)"),
        (http_errors.BadStatus("h", 404, "secret"), None, "h answered 404"),
        (
            http_errors.TooManyRedirects("h", 302, ""),
            None,
            "an image's url redirects too often",
        ),
        (http_errors.TooLarge("h"), None, "an image has more than 3 MB"),
        (http_errors.TooSlow("h"), None, "an image took too long to arrive"),
        (
            http_errors.BadURL("no host", None),
            None,
            "an image's url must be http(s) (no host)",
        ),
        (
            http_errors.BadEncoding("h", "br", False),
            None,
            "h sent an image packed as br, which is not unpacked here",
        ),
        (
            http_errors.BadEncoding("h", "gzip", True),
            None,
            "h sent an image packed as gzip, damaged",
        ),
    ],
)
def test_what_a_client_is_told_of_a_fetch(error: Exception, cause: Any, told: str):
    assert at_host(error, cause).startswith(told)


def test_all_addresses_must_be_public(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(
        fetch.socket,
        "getaddrinfo",
        lambda *_, **__: [(0, 0, 0, "", (one, 80)) for one in found],
    )
    found += ["8.8.8.8", "1.1.1.1", "8.8.8.8"]
    assert fetch._resolve_public("h", 80) == ["8.8.8.8", "1.1.1.1"]
    for wrong in ([], ["8.8.8.8", "10.0.0.1"]):
        found[:] = wrong
        with pytest.raises(APIError, match="an address that is not public"):
            fetch._resolve_public("h", 80)
