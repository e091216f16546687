"""The table of API endpoints, for the router and the OpenAPI description."""

from dataclasses import dataclass

from pydantic import BaseModel

from fastvlm_mlx.app.server.api import ollama_schema, openai_schema


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    `handler` is the name of the method of `routes.Routes`, `schema` that of the body,
    `stream` the media type of a streamed response.
    """

    path: str  # in Starlette's syntax
    method: str
    handler: str
    summary: str
    schema: type[BaseModel] | None = None
    stream: str | None = None


ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        "POST",
        "completions",
        "Answer a chat with images (OpenAI)",
        openai_schema.ChatRequest,
        "text/event-stream",
    ),
    Endpoint("/v1/models", "GET", "models", "List the models (OpenAI)"),
    Endpoint("/v1/models/{name:path}", "GET", "model", "Get a model (OpenAI)"),
    Endpoint(
        "/api/chat",
        "POST",
        "chat",
        "Answer a chat with images (Ollama)",
        ollama_schema.ChatRequest,
        "application/x-ndjson",
    ),
    Endpoint(
        "/api/generate",
        "POST",
        "generate",
        "Answer a prompt with images (Ollama)",
        ollama_schema.GenerateRequest,
        "application/x-ndjson",
    ),
    Endpoint("/api/tags", "GET", "tags", "List the models (Ollama)"),
    Endpoint("/api/ps", "GET", "tags", "List the loaded models (Ollama)"),
    Endpoint(
        "/api/show",
        "POST",
        "show",
        "Describe a model (Ollama)",
        ollama_schema.ShowRequest,
    ),
    Endpoint("/api/version", "GET", "version", "The version of Ollama's protocol"),
    Endpoint("/health", "GET", "health", "Whether the server is up"),
)
