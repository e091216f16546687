"""`fastvlm-mlx caption`: writes a caption for every image that has none yet.

While the model answers about one batch, a thread opens the images of the next. Under
`mlx.launch` the processes share the batches, and the first one writes and talks.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.caption.choose_output import open_output
from fastvlm_mlx.app.caption.find_images import find, without_caption
from fastvlm_mlx.app.caption.output import Output
from fastvlm_mlx.app.caption.presets import Preset
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.caption.request import Request, check
from fastvlm_mlx.app.caption.team import Team
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.lines.writing import NoPlace
from fastvlm_mlx.errors import FastVLMError, ImageError
from fastvlm_mlx.generation.json_schema import read_schema
from fastvlm_mlx.processing import prefetch

if TYPE_CHECKING:
    import numpy as np

    from fastvlm_mlx.app.caption.captioner import Captioner

LISTED = 10  # failures named at the end; the others are in the output


def run(request: Request) -> int:
    """Captions what has none yet; returns the exit code.

    It is 1 if an image failed, or was left out of what was asked for.
    """
    with Team() as team:
        return _lead(request, team) if team.rank == 0 else _follow(request, team)


def _lead(request: Request, team: Team) -> int:
    check(request)
    if request.schema:
        read_schema(request.schema)  # its faults come before everything else
    left_out: list[str] = []
    images = find(request.paths, recursive=request.recursive, warn=left_out.append)
    for warning in left_out:
        terminal.note(warning)
    name = session.choose_model(request.model)
    tuned_name = session.tuned_name(name, request.adapter)
    output = _opened(request, images, tuned_name)
    with closing(output):
        todo = without_caption(images, output.done)
        if there := len(images) - len(todo):
            have = "has a caption" if len(images) == 1 else "have captions"
            terminal.note(f"{there} of {_count(len(images))} {have} already")
        if not todo:
            return 1 if left_out else 0
        team.tell({"model": name, "images": todo})
        captioner = _captioner(request, name)
        output.begin()
        label = {"model": tuned_name, "prompt": request.question}
        failed = _run(captioner, todo, output, request, label, team)
        return 1 if failed or left_out else 0


def _follow(request: Request, team: Team) -> int:
    """What the processes after the first one do."""
    plan = team.tell(None)
    if plan is None:
        return 0
    name, todo = plan["model"], plan["images"]
    captioner = _captioner(request, name)
    tuned_name = session.tuned_name(name, request.adapter)
    label = {"model": tuned_name, "prompt": request.question}
    for _ in _rounds(captioner, todo, captioner.pixels, request, label, team):
        pass
    return 0


def _captioner(request: Request, name: str) -> "Captioner":
    _, model = session.open_model(
        name, refresh=request.refresh, adapter=request.adapter
    )
    packages.use_only(model, name)
    session.keep_features(model, request.keep_features)
    from fastvlm_mlx.app.caption.captioner import Captioner
    from fastvlm_mlx.processing.image_options import ImageOptions

    chosen = request.options
    return Captioner(
        model,
        request.question,
        ImageOptions.of(model.config, chosen.fit, chosen.resolution, chosen.tiles),
        request.answer,
        system=chosen.system,
        schema=read_schema(request.schema) if request.schema else None,
    )


def _opened(request: Request, images: list[str], model: str) -> Output:
    if request.xmp:
        from fastvlm_mlx.app.caption.xmp_sidecars import XMPSidecars

        field = request.chosen.field if request.chosen else "description"
        return XMPSidecars(images, field, overwrite=request.overwrite)
    return open_output(
        request.out,
        request.form,
        images,
        model=model,
        prompt=request.question,
        preset=request.preset,
        overwrite=request.overwrite,
    )


def _run(
    captioner: "Captioner",
    todo: Sequence[str],
    output: Output,
    request: Request,
    label: dict[str, str],
    team: Team,
) -> bool:
    """Captions `todo`; whether an image failed."""

    def opened(name: str) -> "np.ndarray":
        output.check(name)
        return captioner.pixels(name)

    failures: list[str] = []
    done = 0
    begun = time.perf_counter()
    # Lines on a terminal are progress enough, and a bar would run into them.
    visible = not output.on_terminal
    try:
        with terminal.progress("captioning", count=True, visible=visible) as update:
            update(0, len(todo))
            for made in _rounds(captioner, todo, opened, request, label, team):
                for record in made:
                    try:
                        if team.count > 1 and record.error is None:
                            output.check(record.image)  # the others could not
                        output.write(record)
                    except NoPlace as error:
                        record = replace(record, error=terminal.describe(error))
                    done += 1
                    if record.error is not None:
                        failures.append(record.error)
                rate = terminal.format_rate(done, time.perf_counter() - begun, "image")
                update(done, len(todo), rate)
    finally:
        seconds = time.perf_counter() - begun
        _summarize(done - len(failures), failures, len(todo), seconds)
    return bool(failures)


def _rounds(
    captioner: "Captioner",
    todo: Sequence[str],
    opened: Callable[[str], "np.ndarray"],
    request: Request,
    label: dict[str, str],
    team: Team,
) -> Iterator[Iterable[Record]]:
    """The records of `todo` in order, of all processes; they work in between."""
    size = request.batch
    share = batches(team.share(todo, size), opened, size)
    made = (records(captioner, batch, label, request.chosen) for batch in share)
    if team.count == 1:
        yield from made
        return
    fields = ([record.fields() for record in batch] for batch in made)
    for part in team.rounds(fields, len(todo), size):
        yield [Record(**each) for each in part]


def batches(
    images: Sequence[str], opened: Callable[[str], "np.ndarray"], size: int
) -> Iterator[list[tuple[str, "np.ndarray | FastVLMError"]]]:
    """The images in order, `size` at a time, each with its pixels or what is wrong.

    A thread opens as many ahead, while the caller is at work.
    """

    def attempt(name: str) -> "np.ndarray | FastVLMError":
        try:
            return opened(name)
        except FastVLMError as error:
            return error
        # A disk that was taken away, or an image too large for this machine: one
        # image fails, the others may do better.
        except (OSError, MemoryError) as error:
            return ImageError(f"{name}: {terminal.describe(error)}")

    yield from prefetch.batches(images, attempt, size)


def records(
    captioner: "Captioner",
    batch: Iterable[tuple[str, "np.ndarray | FastVLMError"]],
    label: dict[str, str],
    preset: Preset | None = None,
) -> Iterator[Record]:
    """The lines of one batch, in its order; `preset` trims what is answered."""
    names = label if preset is None else {**label, "preset": preset.name}
    batch = list(batch)
    pixels = [each for _, each in batch if not isinstance(each, FastVLMError)]
    captions = iter(captioner.captions(pixels))
    for name, each in batch:
        outcome = each if isinstance(each, FastVLMError) else next(captions)
        try:
            if isinstance(outcome, FastVLMError):
                raise outcome
            content = outcome.content
            if preset is not None:
                cut = outcome.finish_reason == "length"
                content = preset.result(content, cut=cut)
        except FastVLMError as error:
            yield Record(name, **names, error=terminal.describe(error))
        else:
            reason = outcome.finish_reason
            yield Record(name, **names, caption=content, finish_reason=reason)


def _summarize(captions: int, failures: list[str], todo: int, seconds: float):
    done = captions + len(failures)
    text = f"{_count(captions)} captioned in {seconds:.1f} s"
    if captions:  # failures are quick, and no measure of anything
        text += f" ({terminal.format_rate(captions, seconds, 'image')})"
    if failures:
        text += f", {len(failures)} failed:"
    terminal.note(text)
    for failure in failures[:LISTED]:
        terminal.note(f"error: {failure}")
    if len(failures) > LISTED:
        terminal.note(f"and {len(failures) - LISTED} more")
    if done < todo:
        terminal.note(f"{_count(todo - done)} to go; run the same command to go on")


def _count(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"
