"""`fastvlm-mlx train`: from images and answers to an adapter, with scores before and
after.

The adapter is written before it is scored: what has been learned is kept, whatever
happens then. The state of the run stands beside it, in OUT.training, until all epochs
are done.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_mlx.adapters.files import ADAPTER_FOLDER, write_adapter
from fastvlm_mlx.app import charts, session, terminal
from fastvlm_mlx.app.train import curves, report
from fastvlm_mlx.app.train.exam import Exam
from fastvlm_mlx.app.train.progress import narrator
from fastvlm_mlx.convert.save_weights import LICENCE_FILES
from fastvlm_mlx.device import on_cpu
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.scoring import chance, score
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.model_folder import converted
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.train.answers import gray_features
from fastvlm_mlx.train.data.features import FeatureStore, features_folder
from fastvlm_mlx.train.data.read import QUESTION, read_samples
from fastvlm_mlx.train.data.report import DataReport
from fastvlm_mlx.train.data.samples import Sample
from fastvlm_mlx.train.data.split import split
from fastvlm_mlx.train.distributed import Processes
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.run import TrainResult, train
from fastvlm_mlx.train.state import LOG, STATE, remove
from fastvlm_mlx.train.training_set import prepare


@dataclass(frozen=True)
class Request:
    """The command line of `train`.

    - `out`: the adapter's folder; None: named after the data.
    - `valid`: data to hold out; None: the share `held_out` of `data`.
    - `question`, `images`: as for `read_samples`.
    - `stage`, `settings`: of `TrainOptions`, those that were given.
    - `format`: "mlx" or "peft"; `plot`: an image of the loss curves.
    """

    model: str
    data: str
    out: Path | None = None
    valid: str | None = None
    held_out: float = 0.1
    question: str | None = None
    images: str | None = None
    stage: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    view: session.ConversationOptions = session.ConversationOptions()
    format: str = "mlx"
    plot: Path | None = None
    resume: bool = False
    overwrite: bool = False


def run(request: Request) -> int:
    """Trains, writes the adapter and prints its scores; the exit code.

    It is 0 also where nothing was learned, 1 where the loss became no number, and 130
    after Ctrl-C. Under `mlx.launch` every
    process learns; the first one alone writes, answers and talks.

    Raises:
        FastVLMError: an option, the data or the model cannot be used.
    """
    options = _options(request)
    out = _named(request)
    first = Processes().rank == 0
    say = terminal.note if first else _silent
    if first:
        _check_output(request, out)
    samples, held_out = _read(request, options.seed, say)
    say(f"{len(samples)} to learn from, {len(held_out)} held out")
    # On a CPU large layers would keep their 16 or 4 bits, and be widened at every step.
    dtype = "float32" if on_cpu() else None
    name, model = session.open_model(request.model, dtype=dtype)
    source = converted(name)
    licences = [file for each in LICENCE_FILES for file in source.glob(each)]
    for file in sorted(licences):
        if file.name.startswith("LICENSE"):
            say(f"the licence of {name} holds for its adapters too: {file}")
    view = ImageOptions.of(
        model.config, request.view.fit, request.view.resolution, request.view.tiles
    )
    store = FeatureStore(features_folder(), model, view)
    begun = time.monotonic()
    with terminal.progress("encoding", count=True, visible=first) as update:
        data = prepare(model, samples, held_out, store=store, on_progress=update)
    seconds = report.duration(time.monotonic() - begun)
    say(f"images encoded in {seconds}, and kept in {store.folder}")
    before: list[str] = []
    exam = None
    if held_out and first:
        gray = gray_features(model, view)
        exam = Exam(model, held_out, data.held_out, store, gray)
        before = exam.answers("answering")
        say(f"before: {score(exam.expected, before)}")
    with narrator(visible=first) as tell:
        result = train(
            model,
            data,
            options,
            folder=_state(out),
            resume=request.resume,
            on_event=tell,
        )
    if not first:
        return 0
    _write(request, out, result, licences)
    if result.stopped == "interrupted":
        terminal.note(
            f"interrupted; {out} holds the best so far, and the same command with"
            " --resume goes on"
        )
        return 130
    if exam is not None:
        _report(exam, before, out)
    _finish(request, out, result, name)
    return 0 if result.fault is None else 1


def _options(request: Request) -> TrainOptions:
    if request.stage is not None:
        return TrainOptions.stage(request.stage, **request.settings)
    return TrainOptions(**request.settings)


def _silent(text: str) -> None:
    """What the processes after the first one say."""


def _named(request: Request) -> Path:
    """The adapter's folder."""
    if request.out is not None:
        return request.out
    return Path(f"{expand_user(request.data).resolve().stem or 'data'}-adapter")


def _check_output(request: Request, out: Path) -> None:
    """Refuses what cannot be written; removes the run that --overwrite replaces."""
    if request.plot is not None:
        charts.check(expand_user(request.plot))
    state = _state(out)
    begun = (state / STATE).exists()
    if begun and request.overwrite and not request.resume:
        remove(state)
    elif begun and not request.resume:
        raise OptionError(
            f"{state}: holds a run that was stopped; --resume goes on with it,"
            " --overwrite begins anew"
        )
    check_output(out, overwrite=request.overwrite or begun, kind=ADAPTER_FOLDER)


def _state(out: Path) -> Path:
    place = expand_user(out)
    return place.with_name(f"{place.name}.training")


def _read(
    request: Request, seed: int, say: Callable[[str], None]
) -> tuple[list[Sample], list[Sample]]:
    """The samples to learn from and those held out."""
    question = QUESTION if request.question is None else request.question

    def read(path: str) -> tuple[list[Sample], DataReport]:
        return read_samples(path, question=question, image_folder=request.images)

    samples, found = read(request.data)
    say(f"{request.data}: {found.summary()}")
    for note in found.notes:
        say(f"note: {note}")
    if request.valid is None:
        return split(samples, request.held_out, seed)
    held_out, found = read(request.valid)
    say(f"{request.valid}: {found.summary()}")
    return samples, held_out


def _write(
    request: Request, out: Path, result: TrainResult, licences: list[Path]
) -> None:
    """Writes the adapter, with the log and the model's licences."""
    write_adapter(
        out,
        result.adapter,
        format=request.format,
        overwrite=request.overwrite or request.resume,
        companions=[*licences, _state(out) / LOG],
    )
    size = format_size(sum(file.stat().st_size for file in expand_user(out).iterdir()))
    kept = f", of epoch {result.best_epoch}" if result.best_epoch else ""
    terminal.note(f"adapter: {out} ({size}{kept})")
    if result.fault is not None:
        terminal.note(f"error: {result.fault}")


def _report(exam: Exam, before: list[str], out: Path) -> None:
    """Prints the scores and what they mean, and adds them to the log."""
    answers = report.Examined(
        exam.images,
        exam.expected,
        before,
        exam.answers("answering"),
        exam.answers("images hidden", hidden=True),
    )
    expected = answers.expected
    first, after, hidden = (
        score(expected, given)
        for given in (answers.before, answers.after, answers.hidden)
    )
    for line in (
        *report.scores(first, after, hidden, chance(expected)),
        *report.side_by_side(answers),
        *report.verdict(first, after, hidden),
    ):
        print(terminal.printable(line))
    record = {
        "event": "Scored",
        "before": first.document(),
        "after": after.document(),
        "hidden": hidden.document(),
    }
    with open(expand_user(out) / LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")


def _finish(request: Request, out: Path, result: TrainResult, name: str) -> None:
    if request.plot is not None:
        title = f"Loss of {name} on {Path(request.data).name}"
        curves.draw(expand_user(out) / LOG, expand_user(request.plot), title)
        terminal.note(f"curves: {request.plot}")
    remove(_state(out))
    if result.stopped == "early":
        terminal.note("stopped early: the held-out loss no longer fell")
    if request.format == "mlx":
        terminal.note(f"try: fastvlm-mlx chat IMAGE -m {request.model} --adapter {out}")
