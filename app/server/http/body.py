"""Reads request bodies within limits, parses them and validates their schema."""

import asyncio
import codecs
import json
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from fastvlm_mlx.app.server.http.errors import APIError, busy, one_line
from fastvlm_mlx.app.server.http.field_errors import field_error
from fastvlm_mlx.app.server.http.limits import Limits

# A JSON value takes 30 bytes in memory and two in a body. Base64 has no commas, and
# no text within `Limits.text` has more than this.
_COMMAS = 1_200_000

# Half an emoji, "\\ud83d", is valid in JSON but in no text: what a client cut is
# replaced. The first expression is quick to see that there is none.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_PAIR = rb"u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPE = re.compile(rb"\\(?:" + _PAIR + rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.S)

Schema = TypeVar("Schema", bound=BaseModel)


class BodyMemory:
    """Counts the bytes of all request bodies that are held at once."""

    def __init__(self, limit: int):
        self._limit = limit
        self._held = 0

    def acquire(self, size: int):
        """Adds `size` bytes.

        Raises:
            APIError: There would be more than the limit.
        """
        if self._held + size > self._limit:
            raise busy("other requests use all memory for bodies; try again")
        self._held += size

    def release(self, size: int):
        """Subtracts `size` bytes."""
        self._held -= size


async def read(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        APIError: It is too large or arrives too slowly.
        ClientDisconnect: The client disconnected.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limits.body:
        raise _too_large(limits)
    body = bytearray()

    async def collect():
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > limits.body:
                raise _too_large(limits)

    try:
        await asyncio.wait_for(collect(), limits.body_time)
    except TimeoutError:
        raise APIError(
            408, f"the body did not arrive within {limits.body_time:g} s"
        ) from None
    return bytes(body)


async def parse(request: Request, schema: type[Schema], limits: Limits) -> Schema:
    """The body, validated against `schema`.

    Raises:
        APIError: It does not match; names the first invalid field.
    """
    body = _utf8(await read(request, limits), request.headers)
    if body.count(b",") > _COMMAS:
        raise APIError(400, "the body has too many values", code="invalid_json")
    if _SURROGATE.search(body):
        body = _ESCAPE.sub(_replace_surrogate, body)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise _not_json(str(error)) from None
        raise field_error(error, json.loads(body), schema) from None


def _utf8(body: bytes, headers: Headers) -> bytes:
    """`body` in UTF-8, without a byte order mark.

    Raises:
        APIError: It is packed, empty, or no text of Unicode.
    """
    coding = headers.get("content-encoding", "").strip()
    # Some clients announce what they did not do; JSON does not begin like this.
    if coding.lower() not in ("", "identity") and body[:1] not in (b"{", b"["):
        message = f"Content-Encoding {one_line(coding)}: send the body as it is"
        raise APIError(415, message, code="unsupported_encoding")
    encoding = json.detect_encoding(body)
    try:
        if encoding in ("utf-8", "utf-8-sig"):
            body = body.removeprefix(codecs.BOM_UTF8)
            body.decode()
        else:
            body = body.decode(encoding).encode()
    except UnicodeError:
        message = "the body is not text in UTF-8; send JSON"
        raise APIError(400, message, code="invalid_json") from None
    if not body.strip():
        raise APIError(400, "the body is empty; send JSON", code="invalid_json")
    return body


def _not_json(reason: str) -> APIError:
    """The response to a body that pydantic's parser refuses for `reason`."""
    fault = "the body is not valid JSON"
    if "number out of range" in reason:
        fault = "the body has a number of too many digits"
    elif "recursion limit" in reason:
        fault = "the body is nested too deeply"
    elif place := re.search(r"line (\d+) column (\d+)", reason):
        fault += f" (line {place[1]}, column {place[2]})"
    return APIError(400, fault, code="invalid_json")


def _replace_surrogate(escape: "re.Match[bytes]") -> bytes:
    return escape[0] if escape[1] is None else b"\\ufffd"


def _too_large(limits: Limits) -> APIError:
    return APIError(
        413, f"the body is larger than {limits.body >> 20} MB", code="too_large"
    )
