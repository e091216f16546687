"""`fastvlm-mlx caption`: writes a caption for every image that has none yet.

While the model answers about one batch, a thread opens the images of the next.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.caption.choose_output import open_output
from fastvlm_mlx.app.caption.find_images import find, without_caption
from fastvlm_mlx.app.caption.output import Output
from fastvlm_mlx.app.caption.presets import PRESETS, Preset
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.lines.writing import NoPlace
from fastvlm_mlx.errors import FastVLMError, ImageError
from fastvlm_mlx.generation.json_schema import read_schema
from fastvlm_mlx.processing import prefetch

if TYPE_CHECKING:
    import numpy as np

    from fastvlm_mlx.app.caption.captioner import Captioner
    from fastvlm_mlx.generation.sampling import Sampling

PROMPT = "Describe the image."
LISTED = 10  # failures named at the end; the others are in the output


@dataclass(frozen=True)
class Request:
    """The command line of `caption`.

    `prompt` None is that of `preset`, a name in PRESETS, or else PROMPT.
    `out` None or "-" is standard output; `form` is "jsonl", "csv", "tsv", "txt" or
    None: as the name of `out` says; `schema` is the path of a JSON schema;
    `xmp` puts captions into XMP files beside the images.
    """

    paths: tuple[str, ...]
    out: str | None
    form: str | None
    recursive: bool
    overwrite: bool
    batch: int
    prompt: str | None
    schema: Path | None
    model: str | None
    options: session.ConversationOptions
    sampling: "Sampling"
    refresh: bool = False
    keep_features: int | None = None
    adapter: Path | None = None
    preset: str | None = None
    xmp: bool = False

    @property
    def chosen(self) -> Preset | None:
        """The preset itself."""
        return None if self.preset is None else PRESETS[self.preset]

    @property
    def question(self) -> str:
        """What is asked about every image."""
        if self.chosen is not None:
            return self.chosen.prompt
        return PROMPT if self.prompt is None else self.prompt

    @property
    def answer(self) -> "Sampling":
        """How an answer is made; a preset needs no long one."""
        if self.chosen is None:
            return self.sampling
        least = min(self.sampling.max_tokens, self.chosen.max_tokens)
        return replace(self.sampling, max_tokens=least)


def run(request: Request) -> int:
    """Captions what has none yet; returns the exit code.

    It is 1 if an image failed, or was left out of what was asked for.
    """
    check(request)
    schema = read_schema(request.schema) if request.schema else None
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
        _, model = session.open_model(
            name, refresh=request.refresh, adapter=request.adapter
        )
        packages.use_only(model, name)
        session.keep_features(model, request.keep_features)
        from fastvlm_mlx.app.caption.captioner import Captioner
        from fastvlm_mlx.processing.image_options import ImageOptions

        chosen = request.options
        captioner = Captioner(
            model,
            request.question,
            ImageOptions.of(model.config, chosen.fit, chosen.resolution, chosen.tiles),
            request.answer,
            system=chosen.system,
            schema=schema,
        )
        output.begin()
        label = {"model": tuned_name, "prompt": request.question}
        failed = _run(captioner, todo, output, request, label)
        return 1 if failed or left_out else 0


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
            for batch in batches(todo, opened, request.batch):
                for record in records(captioner, batch, label, request.chosen):
                    try:
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


def check(request: Request) -> None:
    """Checks the options.

    Raises:
        UsageError: the prompt is empty, the batch size below 1, or there are two
            questions or outputs.
    """
    if request.xmp:
        for name, value in (
            ("-o", request.out),
            ("--format", request.form),
            ("--schema", request.schema),
        ):
            if value is not None:
                raise session.UsageError(
                    f"--xmp: writes texts and tags beside each image; leave out {name},"
                    " or --xmp"
                )
    if request.preset is not None:
        for name, value in (("-p", request.prompt), ("--schema", request.schema)):
            if value is not None:
                raise session.UsageError(
                    f"--preset {request.preset}: asks its own question; leave out"
                    f" {name}, or --preset"
                )
    if not request.question.strip():
        raise session.UsageError("'-p' is empty; try -p 'Describe the image.'")
    if request.batch < 1:
        raise session.UsageError(f"--batch {request.batch}: must be at least 1")


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
