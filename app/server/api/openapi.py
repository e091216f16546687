"""The OpenAPI description of the server, generated from its endpoints and schemas."""

import functools
from typing import Any

from pydantic.json_schema import models_json_schema

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app.server.api.endpoints import ENDPOINTS

_REF = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request is invalid",
    "401": "The token is missing or wrong",
    "403": "The Host or the Origin is not allowed",
    "404": "There is no such model",
    "408": "The body arrived too slowly",
    "413": "The body is too large",
    "503": "Too many requests are waiting",
}


@functools.cache
def describe() -> dict[str, Any]:
    """OpenAPI 3.1 of `ENDPOINTS`."""
    schemas = [one.schema for one in ENDPOINTS if one.schema is not None]
    references, definitions = models_json_schema(
        [(schema, "validation") for schema in schemas], ref_template=_REF
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace(":path}", "}")
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "responses": _responses(endpoint.stream),
        }
        if endpoint.schema is not None:
            reference = references[endpoint.schema, "validation"]
            content = {"application/json": {"schema": reference}}
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
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
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
    responses: dict[str, Any] = {"200": {"description": "Success", "content": content}}
    for status, description in _ERRORS.items():
        responses[status] = {"description": description}
    return responses
