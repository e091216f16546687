"""What the error responses are made of: statuses, headers, names, lengths."""

import asyncio
import json
from typing import Annotated, Any, Literal

import pytest

pytest.importorskip("starlette")

from annotated_types import Gt, Le, Len  # noqa: E402
from pydantic import BaseModel, ValidationError  # noqa: E402
from starlette.requests import Request  # noqa: E402

from fastvlm_mlx.app.server.http import body, field_errors  # noqa: E402
from fastvlm_mlx.app.server.http.errors import (  # noqa: E402
    APIError,
    api_error_from,
    busy,
    one_line,
)
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.errors import (  # noqa: E402
    ContextError,
    FastVLMError,
    ImageError,
    OptionError,
)


def test_headers_follow_the_status():
    assert APIError(401, "x").headers == {"www-authenticate": "Bearer"}
    assert APIError(400, "x").headers == APIError(402, "x").headers == {}
    assert busy("x").headers == {"retry-after": "1"} and busy("x").status == 503
    assert APIError(503, "x", retry=0).headers == {"retry-after": "0"}


def test_the_fault_of_a_field():
    moved = APIError(413, "too long", code="c", param="old", retry=7).at("a[0].b")
    assert (moved.status, str(moved), moved.message) == (413, *2 * ["a[0].b: too long"])
    assert (moved.code, moved.param, moved.retry) == ("c", "a[0].b", 7)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ContextError("full"), (400, "full", "context_length_exceeded", "messages")),
        (ImageError("bad"), (400, "bad", "invalid_image", "messages")),
        (OptionError("top_k: low"), (400, "topK: low", "invalid_value", "topK")),
        (OptionError("seed: low"), (400, "seed: low", "invalid_value", None)),
        (FastVLMError("other"), (400, "other", None, None)),
        (KeyError("secret"), (500, "the server failed (KeyError)", None, None)),
    ],
)
def test_errors_of_the_library(error: Exception, expected: tuple[Any, ...]):
    found = api_error_from(error, {"top_k": "topK"})
    assert (found.status, found.message, found.code, found.param) == expected


def test_errors_that_pass_by():
    itself = APIError(418, "tea")
    assert api_error_from(itself) is itself
    assert api_error_from(OptionError("top_k: low")).param is None
    for error in (MemoryError(), RuntimeError("[metal::malloc] Unable to ALLOCATE")):
        assert api_error_from(error).code == "server_busy"


def test_what_is_quoted():
    assert one_line("a\x00\u2028b") == "a??b"
    assert one_line("x" * 100) == "x" * 100
    assert one_line("x" * 5000) == "x" * 100 + "..."


class Inner(BaseModel):
    whole: Annotated[int, Gt(2), Le(9)] = 5
    above: Annotated[float, Gt(0.5), Le(2)] = 1.0
    below: Annotated[float, Le(2)] = 1.0
    any_whole: int = 1


class Sent(BaseModel):
    inner: Inner = Inner()
    kind: Literal["a", True, False] = "a"
    many: Annotated[list[int], Len(2, 3)] = [1, 2]
    few: Annotated[list[int], Len(1, 0)] = []
    name: Annotated[str, Len(2, 4)] = "abc"
    short: Annotated[str, Len(1)] = "a"
    maybe: Inner | None = None
    by_name: dict[str, int] = {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"inner": {"whole": 2}}, "inner.whole: give a whole number"),
        ({"inner": {"above": 0.5}}, "inner.above: give a number above 0.5 and 2 at mo"),
        ({"inner": {"below": 3}}, "inner.below: give a number"),
        ({"inner": {"any_whole": "x1"}}, "inner.any_whole: the value is not suppo"),
        ({"kind": "b"}, "kind: give 'a', true or false"),
        ({"many": [1]}, "many: give at least 2 values"),
        ({"many": [1] * 4}, "many: give at most 3 values"),
        ({"name": "a"}, "name: give at least 2 characters"),
        ({"name": "abcde"}, "name: give at most 4 characters"),
        ({"short": ""}, "short: give at least 1 character"),
        ({"inner": 5}, "inner: give an object"),
        ({"maybe": 5}, "maybe: give an object"),
        ({"many": [1, {}]}, "many[1]: give a number"),
        ({"by_name": {"a\nb": {}}}, "by_name.a?b: give a number"),
        (5, "the body: give an object"),
    ],
)
def test_what_is_said_of_a_field(value: Any, message: str):
    with pytest.raises(ValidationError) as caught:
        Sent.model_validate(value)
    found = field_errors.field_error(caught.value, value, Sent)
    assert found.status == 400 and found.code == "invalid_value"
    assert found.message.startswith(message)
    param = message.partition(":")[0]
    assert found.param == (None if param == "the body" else param)


@pytest.mark.parametrize(("length", "shown"), [(192, 192), (193, 192)])
def test_a_long_name_is_cut(length: int, shown: int):
    value = {"by_name": {"x" * length: {}}}
    with pytest.raises(ValidationError) as caught:
        Sent.model_validate(value)
    found = field_errors.field_error(caught.value, value, Sent)
    end = "" if length == shown else "..."
    assert found.param == "by_name." + "x" * shown + end and len("by_name.") == 8


class Any_(BaseModel):
    given: Any = None


def parsed(data: bytes, limits: Limits | None = None, **headers: str) -> Any:
    """What the server reads of a body that comes in two parts."""
    parts = [data[:3], data[3:]]

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    named = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]
    request = Request({"type": "http", "headers": named}, receive)  # type: ignore
    return asyncio.run(body.parse(request, Any_, limits or Limits())).given


def refusal(data: bytes, limits: Limits | None = None, **headers: str) -> APIError:
    with pytest.raises(APIError) as caught:
        parsed(data, limits, **headers)
    return caught.value


def test_bodies_at_their_limits():
    small = Limits(body=1 << 20)
    data = b'{"given":"%s"}'
    full = data % (b"x" * ((1 << 20) - len(data) + 2))
    assert len(full) == 1 << 20
    assert len(parsed(full, small, content_length=str(len(full)))) == 1048564
    for error in (
        refusal(full + b" ", small),
        refusal(b"{}", small, content_length=str(len(full) + 1)),
    ):
        assert (error.status, error.code) == (413, "too_large")
        assert error.message == "the body is larger than 1 MB"
    assert parsed(b'{"given":1}', small, content_length="x") == 1


def test_the_values_of_a_body_are_counted(monkeypatch):
    assert body._COMMAS == 1_200_000
    monkeypatch.setattr(body, "_COMMAS", 3)
    assert parsed(b'{"given":[1,2,3,4]}') == [1, 2, 3, 4]
    error = refusal(b'{"given":[1,2,3,4,5]}')
    assert (error.status, error.code) == (400, "invalid_json")
    assert error.message == "the body has too many values"


def test_a_body_that_does_not_arrive():
    async def receive() -> Any:
        await asyncio.sleep(60)

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(APIError) as caught:
        asyncio.run(body.read(request, Limits(body_time=0.05)))
    assert caught.value.status == 408
    assert str(caught.value) == "the body did not arrive within 0.05 s"


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"[1", 400, "the body is not valid JSON (line 1, column 2)"),
        (b'{"a":\n  x}', 400, "the body is not valid JSON (line 2, column 3)"),
        (b"[" * 3000, 400, "the body is nested too deeply"),
        (b"1" * 5000, 400, "the body has a number of too many digits"),
        (b" \n\t", 400, "the body is empty; send JSON"),
        (b"", 400, "the body is empty; send JSON"),
        (b'{"given":"\xff"}', 400, "the body is not text in UTF-8; send JSON"),
    ],
)
def test_bodies_that_are_no_json(data: bytes, status: int, message: str):
    error = refusal(data)
    assert (error.status, error.code) == (status, "invalid_json")
    assert error.message == message


def test_packed_bodies():
    error = refusal(b"\x1f\x8b", content_encoding=" gzip ")
    assert (error.status, error.code) == (415, "unsupported_encoding")
    assert error.message == "Content-Encoding gzip: send the body as it is"
    for coding in ("identity", "IDENTITY", "gzip"):  # announced, not done
        assert parsed(b'{"given":1}', content_encoding=coding) == 1
    assert parsed(b' {"given":1}', content_encoding="Identity") == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\ud83d", "\ufffd"),
        (r"\udE00x", "\ufffdx"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
        (r"\udbff\udfff", "\U0010ffff"),
        (r"\ud800\ud800", "\ufffd\ufffd"),
        (r"\ud7ff", "\ud7ff"),
    ],
)
def test_half_of_a_character(written: str, read: str):
    assert parsed(json.dumps({"given": "_"}).replace("_", written).encode()) == read
