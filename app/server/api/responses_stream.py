"""The events of a streamed response of /v1/responses, each with its number."""

from collections.abc import Sequence

from fastvlm_mlx.app.server.api import responses_schema as schema
from fastvlm_mlx.app.server.api.responses import (
    ResponseBody,
    text_part,
    written_logprobs,
)
from fastvlm_mlx.app.server.api.server_sent import event as _event
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.generation.logprobs import TokenLogprob


class Formatter:
    """Responses of /v1/responses; see `response.ResponseFormatter`."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: schema.ResponseRequest):
        self._body = ResponseBody(request)
        self._sent = 0
        self._text = ""
        self._logprobs: list[TokenLogprob] = []

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return self._body.complete(text, last, logprobs)

    def event(self, event: StreamEvent) -> bytes:
        events = b"" if self._sent else self._beginning()
        logprobs = event.chunk.logprobs or ()
        self._text += event.text
        self._logprobs += logprobs
        if event.text:
            delta = {"delta": event.text, "logprobs": written_logprobs(logprobs)}
            events += self._of_part("response.output_text.delta", **delta)
        return events + self._ending(event) if event.finish_reason else events

    def stream_error(self, error: APIError) -> bytes:
        fault = {"code": error.code, "message": error.message, "param": error.param}
        failed = self._body.failed(error)
        return self._numbered("error", **fault) + self._numbered(
            "response.failed", response=failed
        )

    def _beginning(self) -> bytes:
        state = self._body.state("in_progress")
        item = self._body.item("in_progress", [])
        return (
            self._numbered("response.created", response=state)
            + self._numbered("response.in_progress", response=state)
            + self._numbered("response.output_item.added", output_index=0, item=item)
            + self._of_part("response.content_part.added", part=text_part("", None))
        )

    def _ending(self, last: StreamEvent) -> bytes:
        text, logprobs = self._text, self._logprobs
        whole = self._body.complete(text, last, logprobs)
        item = self._body.item(str(whole["status"]), [text_part(text, logprobs)])
        done = {"text": text, "logprobs": written_logprobs(logprobs)}
        part = text_part(text, logprobs)
        return (
            self._of_part("response.output_text.done", **done)
            + self._of_part("response.content_part.done", part=part)
            + self._numbered("response.output_item.done", output_index=0, item=item)
            + self._numbered(f"response.{whole['status']}", response=whole)
        )

    def _of_part(self, kind: str, **fields: object) -> bytes:
        place = {"item_id": self._body.item_id, "output_index": 0, "content_index": 0}
        return self._numbered(kind, **place, **fields)

    def _numbered(self, kind: str, **fields: object) -> bytes:
        number, self._sent = self._sent, self._sent + 1
        return _event({"type": kind, "sequence_number": number, **fields}, kind)
