"""The ASGI application: routes of all protocols and the web page, and middleware."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fastvlm_mlx.app.server.api import (
    anthropic,
    anthropic_schema,
    ollama,
    ollama_schema,
    openai,
    openai_schema,
    openapi,
    responses,
    responses_schema,
    responses_stream,
)
from fastvlm_mlx.app.server.api.endpoints import ENDPOINTS
from fastvlm_mlx.app.server.api.response import AnswerResponse, ResponseFormatter
from fastvlm_mlx.app.server.engine import videos
from fastvlm_mlx.app.server.engine.fetch import Fetcher
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
)
from fastvlm_mlx.app.server.engine.schema_check import SchemaChecker
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.error_responses import (
    error_response,
    on_api_error,
    on_disconnect,
    on_unknown_route,
)
from fastvlm_mlx.app.server.http import body
from fastvlm_mlx.app.server.http.access import (
    AccessMiddleware,
    BodyMemoryMiddleware,
    RequestLogMiddleware,
    SecurityHeadersMiddleware,
)
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.request_target import RequestTargetMiddleware
from fastvlm_mlx.app.server.http.shutdown import OpenRequests, ShutdownMiddleware
from fastvlm_mlx.app.server.model_routes import ModelRoutes

MAX_FETCHES = 4  # at once
MAX_VIDEOS = 2  # decoded at once; each takes up to four cores


class Routes(ModelRoutes):
    """The handlers of all routes.

    Requests are answered by `worker`; images are fetched from `image_hosts`.
    `any_name`: a name that no model has stands for the first.
    """

    def __init__(
        self,
        worker: Worker,
        image_hosts: tuple[str, ...] = (),
        *,
        any_name: bool = False,
    ):
        super().__init__(worker, any_name=any_name)
        self._limits = limits = worker.limits
        self._fetcher = Fetcher(image_hosts, limits.body // 2, limits.fetch_time)
        self._schema_checker = SchemaChecker()
        self._fetches = anyio.CapacityLimiter(MAX_FETCHES)
        self._videos = anyio.CapacityLimiter(MAX_VIDEOS)

    def routes(self) -> list[Route]:
        """All routes, the files of the web page included."""
        return [
            *(
                Route(one.path, getattr(self, one.handler), methods=[one.method])
                for one in ENDPOINTS
            ),
            Route("/openapi.json", self.description, methods=["GET"]),
            *page_routes(),
        ]

    async def completions(self, request: Request) -> ASGIApp:
        chat = await body.parse(request, openai_schema.ChatRequest, self._limits)
        model = self.find_model(chat.model)
        generation_request = await openai.generation_request(chat, self._limits)
        options = chat.stream_options or openai_schema.StreamOptions()
        if chat.stream_options is not None and not chat.stream:
            raise APIError(
                400,
                "The 'stream_options' parameter is only allowed when 'stream' is"
                " enabled.",
                param="stream_options",
            )
        formatter = openai.Formatter(chat.model, bool(options.include_usage))
        generation_request = replace(generation_request, model=model.name)
        return await self._answer(generation_request, formatter, bool(chat.stream))

    async def responses(self, request: Request) -> ASGIApp:
        asked = await body.parse(
            request, responses_schema.ResponseRequest, self._limits
        )
        model = self.find_model(asked.model)
        generation_request = await responses.generation_request(asked, self._limits)
        formatter = responses_stream.Formatter(asked)
        generation_request = replace(generation_request, model=model.name)
        return await self._answer(generation_request, formatter, bool(asked.stream))

    async def messages(self, request: Request) -> ASGIApp:
        asked = await body.parse(
            request, anthropic_schema.MessagesRequest, self._limits
        )
        model = self.find_model(asked.model)
        generation_request = await anthropic.generation_request(asked, self._limits)
        formatter = anthropic.Formatter(asked.model)
        generation_request = replace(generation_request, model=model.name)
        return await self._answer(generation_request, formatter, bool(asked.stream))

    async def count_tokens(self, request: Request) -> ASGIApp:
        asked = await body.parse(request, anthropic_schema.CountRequest, self._limits)
        model = self.find_model(asked.model)
        generation_request = await anthropic.count_request(asked, self._limits)
        generation_request = replace(generation_request, model=model.name)
        return await self._answer(
            generation_request, anthropic.CountFormatter(asked.model), stream=False
        )

    async def chat(self, request: Request) -> ASGIApp:
        chat = await body.parse(request, ollama_schema.ChatRequest, self._limits)
        return await self._ollama(chat, ollama.Formatter(chat.model, chat=True))

    async def generate(self, request: Request) -> ASGIApp:
        prompt = await body.parse(request, ollama_schema.GenerateRequest, self._limits)
        return await self._ollama(prompt, ollama.Formatter(prompt.model, chat=False))

    async def _ollama(
        self,
        request: ollama_schema.ChatRequest | ollama_schema.GenerateRequest,
        formatter: ollama.Formatter,
    ) -> ASGIApp:
        model = self.find_model(request.model)
        generation_request = await ollama.generation_request(request, self._limits)
        if generation_request is None:
            unload = ollama.is_zero(request.keep_alive)
            return JSONResponse(formatter.loaded(unload=unload))
        generation_request = replace(generation_request, model=model.name)
        stream = request.stream is not False
        return await self._answer(generation_request, formatter, stream)

    async def _answer(
        self, request: GenerationRequest, formatter: ResponseFormatter, stream: bool
    ) -> ASGIApp:
        if any(isinstance(i, str) for m in request.messages for i in m.images):
            messages = [await self._fetch(message) for message in request.messages]
            request = replace(request, messages=tuple(messages))
        if videos.has_videos(request.messages):
            messages = await anyio.to_thread.run_sync(
                videos.expand, request.messages, self._limits, limiter=self._videos
            )
            request = replace(request, messages=messages)
        response_format = request.response_format
        if response_format is not None and response_format.schema is not None:
            await self._schema_checker.check(
                response_format.schema, request.names["schema"]
            )
        answer = self._worker.submit(request)
        return AnswerResponse(self._worker, answer, formatter, stream)

    async def _fetch(self, message: Message) -> Message:
        """`message` with the bytes of the images that are URLs."""
        images: list[bytes] = []
        for at, image in enumerate(message.images):
            if isinstance(image, str):
                try:
                    image = await anyio.to_thread.run_sync(
                        self._fetcher.read, image, limiter=self._fetches
                    )
                except APIError as error:
                    raise error.at(message.field(at)) from None
            images.append(image)
        return replace(message, images=tuple(images))

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
    any_name: bool = False,
    requests: OpenRequests | None = None,
) -> ASGIApp:
    """The application with its middleware; stops `worker` when it shuts down.

    `any_name`: clients may write any name for the model.
    It does not wait for the worker's thread, which may take a second: see its `close`.

    `requests`, if given, can refuse the requests that are open then.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette):
        yield
        worker.stop()

    routes = Routes(worker, image_hosts, any_name=any_name).routes()
    app: ASGIApp = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            APIError: on_api_error,
            ClientDisconnect: on_disconnect,
            404: on_unknown_route,
            405: on_unknown_route,
        },
    )
    # From the outside in. Not Starlette's `middleware`: its own error handling, which
    # sends a plain 500, would be outside these.
    stack = (
        Middleware(RequestTargetMiddleware),
        Middleware(
            RequestLogMiddleware,
            paths={route.path for route in routes},
            error_response=error_response,
        ),
        Middleware(SecurityHeadersMiddleware),
        Middleware(
            ShutdownMiddleware,
            requests=requests or OpenRequests(),
            error_response=error_response,
        ),
        Middleware(
            AccessMiddleware,
            hosts=hosts,
            token=token,
            max_drain=worker.limits.body,
            error_response=error_response,
        ),
        Middleware(BodyMemoryMiddleware, limit=worker.limits.bodies),
    )
    for middleware, args, options in reversed(stack):
        app = middleware(app, *args, **options)
    return app


def page_routes() -> list[Route]:
    """A route for each file of the web page; the page itself is at /."""
    folder = Path(str(resources.files("fastvlm_mlx.app") / "web"))

    def serve(file: Path) -> Callable[[Request], Response]:
        return lambda request: FileResponse(file, headers={"cache-control": "no-cache"})

    files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    routes = [Route(f"/{file.name}", serve(file), methods=["GET"]) for file in files]
    index = folder / "index.html"
    return [Route("/", serve(index), methods=["GET"]), *routes] if files else routes
