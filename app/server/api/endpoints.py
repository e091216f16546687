"""The table of API endpoints, for the router and the OpenAPI description."""

from dataclasses import dataclass

from pydantic import BaseModel

from fastvlm_mlx.app.server.api import (
    anthropic_schema,
    ollama_schema,
    openai_schema,
    responses_schema,
)


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
    Endpoint(
        "/v1/responses",
        "POST",
        "responses",
        "Answer a prompt or a chat with images (OpenAI)",
        responses_schema.ResponseRequest,
        "text/event-stream",
    ),
    Endpoint(
        "/v1/messages",
        "POST",
        "messages",
        "Answer a chat with images (Anthropic)",
        anthropic_schema.MessagesRequest,
        "text/event-stream",
    ),
    Endpoint(
        "/v1/messages/count_tokens",
        "POST",
        "count_tokens",
        "Count the tokens of a chat with images (Anthropic)",
        anthropic_schema.CountRequest,
    ),
    Endpoint("/v1/models", "GET", "models", "List the models (OpenAI, Anthropic)"),
    Endpoint(
        "/v1/models/{name:path}", "GET", "model", "Get a model (OpenAI, Anthropic)"
    ),
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
    Endpoint(
        "/api/v0/chat/completions",
        "POST",
        "completions",
        "Answer a chat with images (LM Studio)",
        openai_schema.ChatRequest,
        "text/event-stream",
    ),
    Endpoint(
        "/api/v0/models", "GET", "lm_studio_models", "List the models (LM Studio)"
    ),
    Endpoint(
        "/api/v0/models/{name:path}",
        "GET",
        "lm_studio_model",
        "Describe a model (LM Studio)",
    ),
    Endpoint("/api/v1/models", "GET", "lm_studio_list", "List the models (LM Studio)"),
    Endpoint("/props", "GET", "props", "Describe the model (llama.cpp)"),
    Endpoint("/health", "GET", "health", "Whether the server is up"),
)
