"""`fastvlm-mlx video`: lines of scenes, one answer, a summary, a contact sheet."""

from contextlib import closing
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.video.describe import Describer, sampled, scenes, shown, warn
from fastvlm_mlx.app.video.output import Lines, open_output
from fastvlm_mlx.app.video.records import contents_of
from fastvlm_mlx.app.video.request import PROMPT, Request, check
from fastvlm_mlx.app.video.sheet import Sheet
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.generation.json_schema import read_schema
from fastvlm_mlx.processing.video import Video, open_video
from fastvlm_mlx.processing.video.sampling import few

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


def run(request: Request) -> int:
    """Describes a video; returns the exit code, 1 if a scene could not be described."""
    check(request)
    schema = read_schema(request.schema) if request.schema else None
    sheet = Sheet(request.sheet, overwrite=request.overwrite) if request.sheet else None
    with open_video(request.file) as video:
        if video.duration is None and "://" in request.file:
            raise VideoError(
                f"{video.name}: has no end that is known; use fastvlm-mlx watch"
            )
        if video.duration is not None and request.start >= video.duration:
            raise session.UsageError(
                f"--from {clock(request.start)}: the video ends at"
                f" {clock(video.duration)}"
            )
        if request.ask is not None:
            return _ask(request, video, sheet, schema)
        return _describe(request, video, sheet, schema)


def _ask(request: Request, video: Video, sheet: Sheet | None, schema: Any) -> int:
    from fastvlm_mlx.app.video import ask

    if request.count is not None and request.count > ask.MOST:
        raise session.UsageError(
            f"--frames {request.count}: --ask looks at {ask.MOST} frames at most"
        )
    assert request.ask is not None
    with terminal.progress("looking", count=True) as update:
        frames = few(shown(sampled(request, video), video, request, update), ask.MOST)
    warn(video, request)
    if sheet:
        for frame in frames:
            sheet.add(frame.time, frame.image)
    model = _model(request, session.choose_model(request.model))
    conversation = request.options.conversation(model)
    ask.answer(conversation, request.ask, frames, request.sampling, schema)
    if sheet:
        sheet.write()
    return 0


def _model(request: Request, name: str) -> "FastVLM":
    _, model = session.open_model(
        name, refresh=request.refresh, adapter=request.adapter
    )
    packages.use_only(model, name)
    return model


def _describe(request: Request, video: Video, sheet: Sheet | None, schema: Any) -> int:
    name = session.choose_model(request.model)
    tuned_name = session.tuned_name(name, request.adapter)
    prompt = request.prompt or PROMPT
    contents = contents_of(tuned_name, prompt, request.frames)
    with closing(
        open_output(request.out, request.form, contents, overwrite=request.overwrite)
    ) as output:
        before = output.records() if isinstance(output, Lines) else []
        if before:
            terminal.note(f"already described: {scenes(len(before))}")
        model = _model(request, name)
        from fastvlm_mlx.app.caption.captioner import Captioner
        from fastvlm_mlx.processing.image_options import ImageOptions

        chosen = request.options
        captioner = Captioner(
            model,
            prompt,
            ImageOptions.of(model.config, chosen.fit, chosen.resolution, chosen.tiles),
            request.sampling,
            system=chosen.system,
            schema=schema,
        )
        output.begin()
        describer = Describer(request, video, captioner, sheet, tuned_name, prompt)
        made = describer.run(output)
        records = sorted([*before, *made], key=lambda record: record.time)
        if isinstance(output, Lines):
            output.finish(records)
        if sheet:
            sheet.write()
        if request.summary:
            from fastvlm_mlx.app.video.summary import summarize

            text = summarize(model, records, request.sampling, chosen.system)
            terminal.emit(f"{'' if request.out else chr(10)}{text}\n")
        return 1 if any(record.error for record in made) else 0
