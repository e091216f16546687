"""The ASGI application: routes of both protocols and the web page, and middleware."""

import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from fastvlm_mlx.app.server.api import (
    ollama,
    ollama_schema,
    openai,
    openai_schema,
    openapi,
)
from fastvlm_mlx.app.server.api.endpoints import ENDPOINTS
from fastvlm_mlx.app.server.api.response import AnswerResponse, ResponseFormatter
from fastvlm_mlx.app.server.engine.fetch import Fetcher
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ModelInfo,
    names_model,
)
from fastvlm_mlx.app.server.engine.schema_check import SchemaChecker
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http import body
from fastvlm_mlx.app.server.http.access import (
    AccessMiddleware,
    BodyMemoryMiddleware,
    RequestLogMiddleware,
    SecurityHeadersMiddleware,
)
from fastvlm_mlx.app.server.http.errors import APIError, busy, one_line
from fastvlm_mlx.app.server.http.shutdown import OpenRequests, ShutdownMiddleware

MAX_FETCHES = 4  # at once


class Routes:
    """The handlers of all routes.

    Requests are answered by `worker`; images are fetched from `image_hosts`.
    """

    def __init__(self, worker: Worker, image_hosts: tuple[str, ...] = ()):
        self._worker = worker
        self._limits = limits = worker.limits
        self._fetcher = Fetcher(image_hosts, limits.body // 2, limits.fetch_time)
        self._schema_checker = SchemaChecker()
        self._fetches = anyio.CapacityLimiter(MAX_FETCHES)
        self._created = int(time.time())
        self._started = ollama.now()

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
        model = self._find_model(chat.model)
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
        model = self._find_model(request.model)
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

    def _find_model(self, name: str) -> ModelInfo:
        """The model that a client's `name` stands for.

        Raises:
            APIError: There is none of that name.
        """
        models = self._worker.models
        for model in models:
            if names_model(name, model.name):
                return model
        if names_model(name, "default"):
            return models[0]
        own = ", ".join(f"'{model.name}'" for model in models)
        raise APIError(
            404,
            f"The model '{one_line(name)}' does not exist; this server has {own}"
            " (or 'default')",
            code="model_not_found",
            param="model",
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse(openai.models(self._worker.models, self._created))

    async def model(self, request: Request) -> Response:
        model = self._find_model(request.path_params["name"])
        return JSONResponse(openai.model(model, self._created))

    async def tags(self, request: Request) -> Response:
        return JSONResponse(ollama.tags(self._worker.models, self._started))

    async def show(self, request: Request) -> Response:
        show = await body.parse(request, ollama_schema.ShowRequest, self._limits)
        if show.model is None and show.name is None:
            raise APIError(400, "Missing required parameter: 'model'", param="model")
        model = self._find_model(show.model or show.name or "")
        return JSONResponse(ollama.show(model, self._started))

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
    requests: OpenRequests | None = None,
) -> ASGIApp:
    """The application with its middleware; stops `worker` when it shuts down.

    It does not wait for the worker's thread, which may take a second: see its `close`.

    `requests`, if given, can refuse the requests that are open then.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette):
        yield
        worker.stop()

    routes = Routes(worker, image_hosts).routes()
    app: ASGIApp = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            APIError: _on_api_error,
            ClientDisconnect: _on_disconnect,
            404: _on_unknown_route,
            405: _on_unknown_route,
        },
    )
    # From the outside in. Not Starlette's `middleware`: its own error handling, which
    # sends a plain 500, would be outside these.
    stack = (
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


def error_response(error: APIError, path: str) -> JSONResponse:
    """`error` in the format of the protocol that `path` belongs to."""
    error_body = ollama.error_body if path.startswith("/api/") else openai.error_body
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


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error_response(error, request.url.path)


async def _on_unknown_route(request: Request, error: Exception) -> Response:
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


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody receives it
