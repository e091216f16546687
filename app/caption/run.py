"""`fastvlm-mlx caption`: writes a caption for every image that has none yet.

While the model answers, a thread opens the images that come next. Under `mlx.launch`
the processes share the images, and the first one writes and talks.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
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
    share = opened_ahead(team.share(todo, size), opened, size)
    made = records(captioner, share, label, size, request.chosen)
    if team.count == 1:
        yield from ([record] for record in made)
        return
    fields = (record.fields() for record in made)
    batches = iter(lambda: list(islice(fields, size)), [])
    for part in team.rounds(batches, len(todo), size):
        yield [Record(**each) for each in part]


def opened_ahead(
    images: Sequence[str], opened: Callable[[str], "np.ndarray"], ahead: int
) -> "Iterator[tuple[str, np.ndarray | FastVLMError]]":
    """The images in order, each with its pixels or what is wrong.

    A thread opens so many ahead, while the caller is at work.
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

    return prefetch.made(images, attempt, ahead=ahead)


def records(
    captioner: "Captioner",
    images: Iterable[tuple[str, "np.ndarray | FastVLMError"]],
    label: dict[str, str],
    size: int,
    preset: Preset | None = None,
) -> Iterator[Record]:
    """The lines of `images`, in order; `preset` trims what is answered."""
    common = label if preset is None else {**label, "preset": preset.name}
    names: deque[str] = deque()  # of those that were begun

    def named() -> "Iterator[np.ndarray | FastVLMError]":
        for name, each in images:
            names.append(name)
            yield each

    for outcome in captioner.captions(named(), size):
        name = names.popleft()
        try:
            if isinstance(outcome, FastVLMError):
                raise outcome
            content = outcome.content
            if preset is not None:
                cut = outcome.finish_reason == "length"
                content = preset.result(content, cut=cut)
        except FastVLMError as error:
            yield Record(name, **common, error=terminal.describe(error))
        else:
            reason = outcome.finish_reason
            yield Record(name, **common, caption=content, finish_reason=reason)


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
