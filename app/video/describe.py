"""Describes the scenes of a video, a record each.

A thread decodes and looks for what is new, while the model describes what was found.
"""

import time
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.video.records import Record, identity
from fastvlm_mlx.app.video.request import Request
from fastvlm_mlx.app.video.sheet import Sheet
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.processing import prefetch
from fastvlm_mlx.processing.video import Frame, Video, sample

if TYPE_CHECKING:
    import numpy as np

    from fastvlm_mlx.app.caption.captioner import Captioner

_LISTED = 10  # failures named at the end


class Target(Protocol):
    """Where records go; `done` are the identities of those that are there."""

    on_terminal: bool

    @property
    def done(self) -> Set[str]: ...
    def write(self, record: Any) -> None: ...


class Describer:
    """Describes what is new in `video` with `captioner`."""

    def __init__(
        self,
        request: Request,
        video: Video,
        captioner: "Captioner",
        sheet: Sheet | None,
        model: str,
        prompt: str,
    ):
        self._request, self._video, self._captioner = request, video, captioner
        self._sheet = sheet
        self._model, self._prompt = model, prompt

    def run(self, output: Target) -> list[Record]:
        """Writes a record for each scene that `output` has none of; gives them."""
        made: list[Record] = []
        begun = time.perf_counter()
        request, done = self._request, output.done
        visible = not output.on_terminal
        try:
            with terminal.progress("describing", count=True, visible=visible) as update:
                spans = self._spans(update, done, lambda: _note(made, begun))
                size = request.batch
                for batch in prefetch.ready(spans, size, ahead=2 * size):
                    for record in self._records(batch):
                        output.write(record)
                        made.append(record)
        finally:
            self._summarize(made, time.perf_counter() - begun)
        warn(self._video, request)
        return made

    def _spans(
        self, update: terminal.Update, done: Set[str], note: Callable[[], str]
    ) -> "Iterator[tuple[float, float, np.ndarray]]":
        """Beginning, end and pixels of each scene that is not `done`."""
        request, video = self._request, self._video
        frames = shown(sampled(request, video), video, request, update, note)
        for frame, end in _with_ends(frames, video, request.end):
            if self._sheet:
                self._sheet.add(frame.time, frame.image)
            if identity(frame.time) not in done:
                yield frame.time, end, self._captioner.pixels(frame.image)

    def _records(
        self, batch: "list[tuple[float, float, np.ndarray]]"
    ) -> Iterator[Record]:
        captions = self._captioner.captions(
            (pixels for _, _, pixels in batch), len(batch)
        )
        for (start, end, _), caption in zip(batch, captions, strict=True):
            span = Record(
                video=self._request.file,
                time=round(start, 3),
                end=round(end, 3),
                model=self._model,
                prompt=self._prompt,
                frames=self._request.frames,
            )
            if isinstance(caption, FastVLMError):
                yield replace(span, error=terminal.describe(caption))
            else:
                reason = caption.finish_reason
                yield replace(span, caption=caption.content, finish_reason=reason)

    def _summarize(self, made: list[Record], seconds: float) -> None:
        failures = [record.error for record in made if record.error]
        good = len(made) - len(failures)
        text = f"{scenes(good)} described in {seconds:.1f} s"
        if good:
            text += f" ({terminal.format_rate(good, seconds, 'scene')})"
        if (frames := self._video.count) > len(made):
            text += f"; {frames - len(made)} of {frames} frames show nothing new"
        terminal.note(text)
        for failure in failures[:_LISTED]:
            terminal.note(f"error: {failure}")


def sampled(request: Request, video: Video) -> Iterator[Frame]:
    """The frames that are asked for."""
    return sample(
        video,
        every=request.every,
        count=request.count,
        start=request.start,
        end=request.end,
    )


def shown(
    frames: Iterator[Frame],
    video: Video,
    request: Request,
    update: terminal.Update,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Frame]:
    """The frames; a bar shows how far the video was read, in seconds."""
    total = min(video.duration or 0.0, request.end or float("inf")) - request.start
    for frame in frames:
        if total > 0:
            update(int(video.position - request.start), int(total) or 1, note())
        yield frame


def _note(made: list[Record], begun: float) -> str:
    rate = terminal.format_rate(len(made), time.perf_counter() - begun, "scene")
    return f"s, {rate}"


def _with_ends(
    frames: Iterator[Frame], video: Video, stop: float | None
) -> Iterator[tuple[Frame, float]]:
    """Each frame with the time until which nothing else is new."""
    last: Frame | None = None
    for frame in frames:
        if last is not None:
            yield last, frame.time
        last = frame
    if last is not None:
        end = max(video.duration or 0.0, video.position, last.time + 0.5)
        yield last, end if stop is None else min(end, stop)


def warn(video: Video, request: Request) -> None:
    """Says so if the video ended before its time."""
    step = 1.0 + 2 / (video.rate or 1.0)
    until = min(video.duration or 0.0, request.end or float("inf"))
    if video.fault is None and video.position + step >= until:
        return
    if request.every is not None or request.count is not None:
        if video.fault is None:
            return  # frames were jumped over
    reason = f" ({video.fault})" if video.fault else ""
    terminal.note(
        f"warning: {video.name}: damaged or cut off after {clock(video.position)}"
        f"{reason}; described as far as it goes"
    )


def scenes(scenes: int) -> str:
    return f"{scenes} scene{'' if scenes == 1 else 's'}"
