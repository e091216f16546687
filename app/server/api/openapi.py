"""The server's description of itself, made from the schemas it checks with."""

import functools
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app.server.api import ollama_schema, openai_schema

_REF = "#/components/schemas/{model}"
# path: (method, schema of the body, summary, media type of a stream)
_ROUTES: dict[str, tuple[str, type[BaseModel] | None, str, str | None]] = {
    "/v1/chat/completions": (
        "post",
        openai_schema.ChatRequest,
        "Answer a chat with images (OpenAI)",
        "text/event-stream",
    ),
    "/v1/models": ("get", None, "The model (OpenAI)", None),
    "/v1/models/{name}": ("get", None, "The model by its name (OpenAI)", None),
    "/api/chat": (
        "post",
        ollama_schema.ChatRequest,
        "Answer a chat with images (Ollama)",
        "application/x-ndjson",
    ),
    "/api/generate": (
        "post",
        ollama_schema.GenerateRequest,
        "Answer a question about images (Ollama)",
        "application/x-ndjson",
    ),
    "/api/tags": ("get", None, "The model (Ollama)", None),
    "/api/ps": ("get", None, "The loaded model (Ollama)", None),
    "/api/show": ("post", ollama_schema.ShowRequest, "About the model (Ollama)", None),
    "/api/version": ("get", None, "The version of Ollama's protocol", None),
    "/health": ("get", None, "Whether the server is up", None),
}
_REFUSALS = {
    "400": "The request is at fault",
    "401": "The token is missing or wrong",
    "403": "The Host or the Origin is not allowed",
    "404": "There is no such model",
    "408": "The body came too slowly",
    "413": "The body is too large",
    "503": "Too many requests are waiting",
}


@functools.cache
def describe() -> dict[str, Any]:
    """OpenAPI 3.1 of all routes but the page's."""
    schemas = [schema for _, schema, _, _ in _ROUTES.values() if schema is not None]
    references, definitions = models_json_schema(
        [(schema, "validation") for schema in schemas], ref_template=_REF
    )
    paths = {}
    for path, (method, schema, summary, stream) in _ROUTES.items():
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": _responses(stream),
        }
        if schema is not None:
            content = {"application/json": {"schema": references[schema, "validation"]}}
            operation["requestBody"] = {"required": True, "content": content}
        if "{name}" in path:
            operation["parameters"] = [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                }
            ]
        if path != "/health":
            operation["security"] = [{"token": []}, {}]
        paths[path] = {method: operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fastvlm-mlx", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _responses(stream: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if stream is not None:
        content[stream] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    for status, description in _REFUSALS.items():
        responses[status] = {"description": description}
    return responses
