"""Reads request bodies within limits, parses them and validates their schema."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from fastvlm_mlx.app.server.http.errors import APIError, busy
from fastvlm_mlx.app.server.http.limits import Limits

# A JSON value takes 30 bytes in memory and two in a body. Base64 has no commas, and
# no text within `Limits.text` has more than this.
_COMMAS = 1_200_000

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
    body = await read(request, limits)
    if body.count(b",") > _COMMAS:
        raise APIError(400, "the body has too many values", code="invalid_json")
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _mismatch(error) from None


def _mismatch(error: ValidationError) -> APIError:
    # Without the input, which may be an image or a prompt.
    first = error.errors(include_url=False, include_context=False, include_input=False)[
        0
    ]
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return APIError(400, "the body is not valid JSON", code="invalid_json")
    param = _path(first["loc"])
    if kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {param}"
        return APIError(400, message, code="unknown_parameter", param=param)
    if kind == "missing":
        message = f"Missing required parameter: '{param}'"
        return APIError(400, message, code="missing_required_parameter", param=param)
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    return APIError(
        400, f"Invalid '{param}': {message}", code="invalid_value", param=param or None
    )


def _path(location: tuple[int | str, ...]) -> str:
    """As in `messages[0].content`, printable, 203 characters at most."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    path = "".join(c if c.isprintable() else "?" for c in path)
    return path if len(path) <= 200 else f"{path[:200]}..."


def _too_large(limits: Limits) -> APIError:
    return APIError(
        413, f"the body is larger than {limits.body >> 20} MB", code="too_large"
    )
