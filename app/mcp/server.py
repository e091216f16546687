"""The MCP server: translates tool calls to requests for the engine, and back."""

import asyncio
import json
import time
from concurrent.futures import Future
from typing import Any

import anyio
import mcp_types as types
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from pydantic import ValidationError

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.mcp.images import ImageReader
from fastvlm_mlx.app.mcp.tools import ANYWHERE, SCREEN, Arguments, Capture, ToolSpec
from fastvlm_mlx.app.server.api.chat_request import merge_turns, sampling_options
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ResponseFormat,
)
from fastvlm_mlx.app.server.engine.schema_check import SchemaChecker
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from, one_line
from fastvlm_mlx.app.server.http.field_errors import field_error
from fastvlm_mlx.errors import FastVLMError

USAGE = "fastvlm-mlx/usage"  # in `_meta` of results
_PROGRESS = 0.25  # seconds between two reports
_READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, idempotent_hint=True, open_world_hint=False
)


class Tools:
    """The handlers of `tools/list` and `tools/call`.

    `loaded` is done once `worker` answers, and has what kept it from that.
    `capture` makes an image of the screen; None where there is no such tool.
    """

    def __init__(
        self,
        worker: Worker,
        images: ImageReader,
        loaded: "Future[None]",
        capture: Capture | None = None,
    ):
        self._worker = worker
        self._images = images
        self._loaded = loaded
        self._capture = capture
        self._schema_checker = SchemaChecker()
        specs = ANYWHERE if capture is None else (*ANYWHERE, SCREEN)
        self._specs = {spec.name: spec for spec in specs}

    async def list(
        self,
        context: ServerRequestContext[Any],
        params: types.PaginatedRequestParams | None,
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=spec.name,
                    title=spec.title,
                    description=spec.description,
                    input_schema=spec.input_schema(),
                    annotations=_READ_ONLY,
                )
                for spec in self._specs.values()
            ]
        )

    async def call(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """What goes wrong in a tool is its result, one line: the model can read it."""
        spec = self._specs.get(params.name)
        if spec is None:
            raise MCPError(
                types.INVALID_PARAMS,
                f"tool '{one_line(params.name)}': unknown; this server has"
                f" {', '.join(self._specs)}",
            )
        try:
            return await self._call(context, spec, params.arguments or {})
        except FastVLMError as error:
            return _failed(terminal.describe(error))
        except Exception as error:
            return _failed(api_error_from(error).message)

    async def _call(
        self, context: ServerRequestContext[Any], spec: ToolSpec, values: dict[str, Any]
    ) -> types.CallToolResult:
        arguments = _parsed(spec.arguments, values)
        limits, sources = self._worker.limits, arguments.sources
        if len(sources) > limits.images:
            fault = f"images: {len(sources)} images; give at most {limits.images}"
            raise APIError(400, fault)
        schema = arguments.output_schema
        if schema is not None:
            await self._check_schema(schema)
        if sources:
            images = await self._images.read(sources, arguments.fields)
        else:
            images = (await self._screen(),)
        message = Message("user", arguments.prompt, images, tuple(arguments.fields))
        system, messages = merge_turns([message], limits)
        request = GenerationRequest(
            messages=messages,
            system=system,
            sampling=sampling_options({"max_tokens": arguments.max_tokens}),
            response_format=None if schema is None else ResponseFormat(schema),
        )
        if not self._loaded.done():
            await context.session.report_progress(0, None, "loading the model")
        await asyncio.shield(asyncio.wrap_future(self._loaded))
        text, last = await self._answer(context, request, arguments.max_tokens)
        return _result(text, last, schema is not None)

    async def _check_schema(self, schema: Any):
        try:
            await self._schema_checker.check(schema, "schema")
        except RecursionError:
            raise APIError(400, "schema: nested too deeply; simplify it") from None

    async def _screen(self) -> bytes:
        assert self._capture is not None
        return await anyio.to_thread.run_sync(self._capture)

    async def _answer(
        self,
        context: ServerRequestContext[Any],
        request: GenerationRequest,
        max_tokens: int,
    ) -> tuple[str, StreamEvent]:
        """The whole answer; cancelling this ends it within one token."""
        answer = self._worker.submit(request)
        report, text, last = context.session.report_progress, "", None
        reported = time.monotonic()
        try:
            await report(0, max_tokens, "reading the image")
            async for last in answer:
                text += last.text
                if time.monotonic() - reported >= _PROGRESS:
                    reported = time.monotonic()
                    await report(last.chunk.generation_tokens, max_tokens)
        finally:
            self._worker.abandon(answer)
        if last is None:
            raise APIError(503, "the call was given up before it was answered")
        return text, last


def build(tools: Tools, roots: str, model: str | None = None) -> Server[Any]:
    """The server of `tools`, which tells clients that files in `roots` can be read."""
    return Server(
        "fastvlm-mlx",
        version=__version__,
        title="FastVLM",
        description="A local vision language model" + (f" ({model})" if model else ""),
        instructions=(
            "These tools look at images on this machine. Image files must lie in"
            f" {roots}. Ask several short questions rather than one long one: an image"
            " is read once, and each further question about it takes little time."
        ),
        on_list_tools=tools.list,
        on_call_tool=tools.call,
    )


def _parsed(form: type[Arguments], values: dict[str, Any]) -> Arguments:
    try:
        return form.model_validate(values)
    except ValidationError as error:
        raise field_error(error, values, form) from None


def _result(text: str, last: StreamEvent, is_json: bool) -> types.CallToolResult:
    chunk = last.chunk
    usage = {
        "prompt_tokens": chunk.prompt_tokens,
        "cached_tokens": chunk.cached_tokens,
        "completion_tokens": chunk.generation_tokens,
        "finish_reason": last.finish_reason,
    }
    data = None
    if is_json:
        try:
            data = json.loads(text)
        except ValueError:
            count = chunk.generation_tokens
            fault = f"no whole JSON after {count} tokens; ask for less data"
            raise APIError(400, fault) from None
    content: list[types.ContentBlock] = [types.TextContent(text=text)]
    if last.finish_reason == "length" and not is_json:
        cut = f"(cut after {chunk.generation_tokens} tokens; max_tokens sets how many)"
        content.append(types.TextContent(text=cut))
    return types.CallToolResult(
        content=content,
        # Older clients take nothing but an object here.
        structured_content=data if isinstance(data, dict) else None,
        _meta={USAGE: usage},  # pyright: ignore[reportCallIssue]
    )


def _failed(message: str) -> types.CallToolResult:
    line = " ".join(message.split())
    return types.CallToolResult(content=[types.TextContent(text=line)], is_error=True)
