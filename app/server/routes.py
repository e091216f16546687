"""The web application: routes to the protocols, the page and its files."""

import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fastvlm_mlx.app.server.api import (
    ollama,
    ollama_schema,
    openai,
    openai_schema,
    openapi,
)
from fastvlm_mlx.app.server.api.response import (
    AnswerResponse,
    ResponseFormatter,
    refuse,
)
from fastvlm_mlx.app.server.engine.fetch import Fetcher
from fastvlm_mlx.app.server.engine.request import GenerationRequest, Message
from fastvlm_mlx.app.server.engine.schema_check import Schemas
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http import body
from fastvlm_mlx.app.server.http.access import AccessMiddleware
from fastvlm_mlx.app.server.http.errors import APIError

FETCHES = 4  # at once


class Routes:
    """Handlers of all routes, over one `worker`."""

    def __init__(self, worker: Worker, hosts: tuple[str, ...] = ()):
        self._worker = worker
        self._limits = worker.limits
        self._fetcher = Fetcher(hosts, self._limits.body // 2, self._limits.fetch_time)
        self._schemas = Schemas()
        self._fetching = anyio.CapacityLimiter(FETCHES)
        self._created = int(time.time())
        self._started = ollama.now()

    def routes(self) -> list[Route]:
        """All of them, the page's files included."""
        return [
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/generate", self.generate, methods=["POST"]),
            Route("/api/tags", self.tags, methods=["GET"]),
            Route("/api/ps", self.tags, methods=["GET"]),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/version", self.version, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/openapi.json", self.description, methods=["GET"]),
            *page_routes(),
        ]

    async def completions(self, request: Request) -> ASGIApp:
        asked = await body.parse(request, openai_schema.ChatRequest, self._limits)
        name = self._named(asked.model)
        question = await openai.question_of(asked, self._limits)
        options = asked.stream_options or openai_schema.StreamOptions()
        if asked.stream_options is not None and not asked.stream:
            raise APIError(
                400,
                "The 'stream_options' parameter is only allowed when 'stream' is"
                " enabled.",
                param="stream_options",
            )
        writer = openai.Writer(name, bool(options.include_usage))
        return await self._reply(question, writer, bool(asked.stream))

    async def chat(self, request: Request) -> ASGIApp:
        asked = await body.parse(request, ollama_schema.ChatRequest, self._limits)
        return await self._ollama(asked, chat=True)

    async def generate(self, request: Request) -> ASGIApp:
        asked = await body.parse(request, ollama_schema.GenerateRequest, self._limits)
        return await self._ollama(asked, chat=False)

    async def _ollama(
        self,
        asked: ollama_schema.ChatRequest | ollama_schema.GenerateRequest,
        *,
        chat: bool,
    ) -> ASGIApp:
        writer = ollama.Writer(self._named(asked.model), chat)
        question = await ollama.question_of(asked, self._limits)
        if question is None:
            return JSONResponse(writer.loaded())
        return await self._reply(question, writer, asked.stream is not False)

    async def _reply(
        self, question: GenerationRequest, writer: ResponseFormatter, stream: bool
    ) -> ASGIApp:
        if any(isinstance(p, str) for m in question.messages for p in m.images):
            question = await self._fetched(question)
        if question.form is not None and question.form.schema is not None:
            await self._schemas.check(question.form.schema)
        return AnswerResponse(self._worker, self._worker.ask(question), writer, stream)

    async def _fetched(self, question: GenerationRequest) -> GenerationRequest:
        """`question` with the images at addresses read."""

        async def read(image: bytes | str) -> bytes:
            if isinstance(image, bytes):
                return image
            return await anyio.to_thread.run_sync(
                self._fetcher.read, image, limiter=self._fetching
            )

        messages: list[Message] = []
        for message in question.messages:
            images = [await read(image) for image in message.images]
            messages.append(Message(message.role, message.text, tuple(images)))
        return GenerationRequest(**{**vars(question), "messages": tuple(messages)})

    def _named(self, name: str) -> str:
        """The model's name; APIError if `name` is another's."""
        own = self._worker.model["name"]
        # Ollama's clients add the tag.
        if name.removesuffix(":latest") != own.removesuffix(":latest"):
            raise APIError(
                404,
                f"The model '{_short(name)}' does not exist; this server has '{own}'",
                code="model_not_found",
                param="model",
            )
        return name

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai.models(self._worker.model, self._created))

    async def model(self, request: Request) -> Response:
        self._named(request.path_params["name"])
        return JSONResponse(openai.model(self._worker.model, self._created))

    async def tags(self, request: Request) -> Response:
        return JSONResponse(ollama.tags(self._worker.model, self._started))

    async def show(self, request: Request) -> Response:
        asked = await body.parse(request, ollama_schema.ShowRequest, self._limits)
        self._named(asked.model or asked.name or "")
        return JSONResponse(ollama.show(self._worker.model, self._started))

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": ollama.VERSION})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": self._worker.waiting})

    async def description(self, request: Request) -> Response:
        return JSONResponse(openapi.describe())


def build(
    worker: Worker,
    *,
    hosts: tuple[str, ...],
    token: str | None,
    image_hosts: tuple[str, ...] = (),
) -> ASGIApp:
    """The whole application, gate included; closes `worker` when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: Starlette):
        yield
        await anyio.to_thread.run_sync(worker.close)

    routes = Routes(worker, image_hosts).routes()
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            APIError: _refused,
            ClientDisconnect: _left,
            404: _unknown,
            405: _unknown,
        },
    )
    return AccessMiddleware(
        app,
        hosts=hosts,
        token=token,
        paths={route.path for route in routes},
        limits=worker.limits,
    )


def page_routes() -> list[Route]:
    """A route for each file of the page; the page itself is at /."""
    folder = Path(str(resources.files("fastvlm_mlx.app") / "web"))

    def serve(file: Path) -> Callable[[Request], Response]:
        return lambda request: FileResponse(file, headers={"cache-control": "no-cache"})

    files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    routes = [Route(f"/{file.name}", serve(file), methods=["GET"]) for file in files]
    index = folder / "index.html"
    return [Route("/", serve(index), methods=["GET"]), *routes] if files else routes


def _writer(request: Request) -> ResponseFormatter:
    if request.url.path.startswith("/api/"):
        return ollama.Writer("", chat=True)
    return openai.Writer("")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return refuse(_writer(request), error)


async def _unknown(request: Request, error: Any) -> Response:
    method = "known by another method" if error.status_code == 405 else "not known"
    refusal = APIError(error.status_code, f"this address is {method}", code="not_found")
    return refuse(_writer(request), refusal)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # to nobody


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}..."
