"""Responses to what failed, each in the format of the protocol that its path is of."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from fastvlm_mlx.app.server.api import anthropic, ollama, openai
from fastvlm_mlx.app.server.http.access import SecurityHeadersMiddleware
from fastvlm_mlx.app.server.http.errors import APIError, busy, one_line

# Its protocol is OpenAI's with other paths.
_LM_STUDIO = ("/api/v0/", "/api/v1/")


def error_response(error: APIError, path: str) -> JSONResponse:
    """`error` in the format of the protocol that `path` belongs to."""
    error_body = openai.error_body
    if path.startswith("/v1/messages"):
        error_body = anthropic.error_body
    elif path.startswith("/api/") and not path.startswith(_LM_STUDIO):
        error_body = ollama.error_body
    return JSONResponse(error_body(error), error.status, headers=error.headers)


async def overloaded(scope: Scope, receive: Receive, send: Send):
    """An application that answers 503 to everything: too many connections are open."""
    error = busy("too many connections are open; close some, or try again")
    response = error_response(error, scope["path"])
    response.headers["connection"] = "close"
    await SecurityHeadersMiddleware(response)(scope, receive, send)


def malformed() -> bytes:
    """The body of the response to what is not HTTP/1.1, whose path is not known."""
    error = APIError(400, "the request is not valid HTTP/1.1", code="invalid_http")
    return bytes(error_response(error, "").body)


async def on_api_error(request: Request, error: Exception) -> Response:
    """An error that a handler raised."""
    assert isinstance(error, APIError)
    return error_response(error, request.url.path)


async def on_unknown_route(request: Request, error: Exception) -> Response:
    """404 and 405, which Starlette raises."""
    assert isinstance(error, HTTPException)
    path = one_line(request.url.path)
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    if error.status_code == 405:
        methods = allowed.replace(", ", " or ")
        fault, code = f"{path}: send {methods}", "method_not_allowed"
    else:
        # Not quoted: it may be anything.
        fault = "this path is not known; /openapi.json lists those that are"
        code = "not_found"
    response = error_response(APIError(error.status_code, fault, code=code), path)
    if allowed:
        response.headers["allow"] = allowed
    return response


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client has gone."""
    return Response(status_code=400)  # nobody receives it
