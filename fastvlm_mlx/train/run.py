"""`train`: a loaded model learns from rows; what comes out is an adapter on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.files import Adapter
from fastvlm_mlx.adapters.layers import (
    adapter_tensors,
    add_layers,
    projector_tensors,
    remove_layers,
)
from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from fastvlm_mlx.cpu import openblas
from fastvlm_mlx.errors import CheckpointError, DataError, OptionError, TrainingError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.train.distributed import Processes
from fastvlm_mlx.train.dropout import keyed_dropouts
from fastvlm_mlx.train.events import Event
from fastvlm_mlx.train.interrupt import deferred
from fastvlm_mlx.train.learner import LANGUAGE, PROJECTOR, Arrays, Learner
from fastvlm_mlx.train.loop import Loop, TrainingSet
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.state import Facts, State, StateFiles

# Options that change what a run costs, not what it computes.
_COSTS = ("checkpoint", "save_every")

# Below this width of the language model BLAS gets one thread. The demo model (128) was
# faster so, by measurement; the smallest of Apple's has 896, and nothing lies between.
WORTH_THREADS = 512


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. The model has the adapter's layers on it, with its weights.

    Attributes:
        adapter: of the best epoch; of the last step before the first epoch ended.
        best_epoch: from 1; 0 where no epoch was finished.
        train_losses: of each epoch.
        held_out_losses: before the first epoch and after each; None where nothing was
            held out.
        stopped: `finished` all epochs, `early` as nothing got better, `interrupted` by
            Ctrl-C, or `diverged`.
        fault: why it diverged, to be shown.
    """

    adapter: Adapter
    best_epoch: int
    train_losses: tuple[float, ...]
    held_out_losses: tuple[float | None, ...]
    stopped: Literal["finished", "early", "interrupted", "diverged"]
    fault: TrainingError | None = None


def train(
    model: FastVLMModel,
    data: TrainingSet,
    options: TrainOptions | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> TrainResult:
    """Trains an adapter on `model`, which then has it.

    Under `mlx.launch` every process calls this with the same arguments; the first one
    writes the files and reports. Ctrl-C ends the run after the step under way, with
    what is best so far; a second one is a KeyboardInterrupt.

    Args:
        model: without an adapter.
        data: rows and features, as `prepare` gives them.
        options: `TrainOptions()` by default.
        folder: keeps the state of the run, to go on from after a kill, and its log.
        resume: goes on from the state in `folder`, if there is one.
        on_event: called with each `Event`.
    Raises:
        AdapterError: the model has an adapter already, or cannot have this one.
        CheckpointError: the state in `folder` is damaged.
        DataError: there is nothing to learn from.
        OptionError: an option cannot be honoured; `folder` holds another run, or one
            that was not to be resumed, or cannot be written.
        TrainingError: the loss is no number before the first epoch ended.

    After an error the model is as it was.
    """
    options = options or TrainOptions()
    if not data.rows:
        raise DataError("no samples to learn from; give at least one with an answer")
    processes = Processes()
    base = BaseRecord.of(model)
    files = None
    if folder is not None and processes.rank == 0:
        files = StateFiles(expand_user(folder), _run(base, data, options))
        if files.exists() and not resume:
            raise OptionError(
                f"{folder}: holds a run already; resume it, or remove the folder"
            )
    spec = adapter_spec(options)
    _check_projector(model, options)
    add_layers(model, spec)
    with keyed_dropouts(model) as dropouts, deferred() as interrupt:
        learner = Learner(
            model, learning_names(model, options, spec), options, dropouts
        )
        fault = None
        try:
            state = State(learner.start, learner.no_moments())
            state, best = _resumed(state, files, processes)
            loop = Loop(
                learner, data, options, processes, files, interrupt, on_event, best
            )
            try:
                with _threads(model):
                    loop.run(state)
            except TrainingError as error:
                if loop.best is None:
                    raise
                fault = error
        except BaseException:
            learner.install(learner.start)
            remove_layers(model)
            raise
    learner.install(loop.best or loop.last.parameters)
    # It may hold what another projector made.
    model.feature_cache.clear()
    mx.eval(model.parameters())
    facts = loop.last.facts
    return TrainResult(
        _adapter(model, spec, base),
        facts.best_epoch,
        facts.train_losses,
        facts.held_out_losses,
        _why_stopped(loop, facts, fault),
        fault,
    )


def _why_stopped(
    loop: Loop, facts: Facts, fault: TrainingError | None
) -> Literal["finished", "early", "interrupted", "diverged"]:
    if fault is not None:
        return "diverged"
    if not loop.is_over(facts):
        return "interrupted"
    finished = len(facts.train_losses) == loop.options.epochs
    return "finished" if finished else "early"


def _threads(model: FastVLMModel) -> AbstractContextManager[None]:
    """Whatever is best for products of this model's size on a CPU."""
    text = model.config.text
    small = text is not None and text.hidden_size < WORTH_THREADS
    return openblas.one_thread() if small else nullcontext()


def adapter_spec(options: TrainOptions) -> AdapterSpec:
    """The form of the adapter that a run with `options` trains."""
    if options.method == "full":
        return AdapterSpec(
            "full", num_layers=options.num_layers, projector=options.projector
        )
    alone = options.method == "projector"
    return AdapterSpec(
        "lora" if alone else options.method,
        rank=options.rank,
        scale=options.scale,
        dropout=options.dropout,
        keys=() if alone else ALL_KEYS,
        num_layers=options.num_layers,
        projector=options.projector,
    )


def _check_projector(model: FastVLMModel, options: TrainOptions) -> None:
    if not options.projector:
        return
    if model.encoder is not None and model.encoder.projected:
        raise OptionError(
            "projector: this model's encoder has it inside; train the language model"
            " alone, or take a checkpoint with an encoder of its own"
        )
    if model.projector is None or not model.projector.layers:
        raise OptionError(
            "projector: this model has none to train; train the language model alone"
        )
    if any("scales" in layer for layer in model.projector.layers):
        raise OptionError(
            "projector: it is quantized in this model; train the language model alone,"
            " or take the float checkpoint"
        )


def learning_names(
    model: FastVLMModel, options: TrainOptions, spec: AdapterSpec
) -> list[str]:
    """The names of all parameters that learn, as in `model.parameters()`."""
    names = [LANGUAGE + name for name in adapter_tensors(model, spec)]
    if options.projector:
        names += [PROJECTOR + name for name in projector_tensors(model)]
    return names


def _resumed(
    state: State, files: StateFiles | None, processes: Processes
) -> tuple[State, Arrays | None]:
    """Where to begin, the same in all processes, and the best parameters so far."""
    best = None
    if files is not None and files.exists():
        begun = files.read()
        _check_same(files.folder, begun, state)
        files.cut_log(begun.facts)
        state = begun
        if state.facts.best_epoch:
            best = files.read_best()
    flat, facts = processes.from_first(state.flat(), asdict(state.facts))
    state = State.from_flat(flat, Facts.from_dict(facts))
    if state.facts.best_epoch:
        best, _ = processes.from_first(best or state.parameters, None)
    return state, best


def _check_same(folder: Path, begun: State, fresh: State) -> None:
    given = {name: array.shape for name, array in begun.flat().items()}
    if given != {name: array.shape for name, array in fresh.flat().items()}:
        raise CheckpointError(
            f"{folder}: holds the state of another model; remove it and begin anew"
        )


def _adapter(model: FastVLMModel, spec: AdapterSpec, base: BaseRecord) -> Adapter:
    projector = projector_tensors(model) if spec.projector else None
    return Adapter(spec, dict(adapter_tensors(model, spec)), projector, base)


def _run(base: BaseRecord, data: TrainingSet, options: TrainOptions) -> dict[str, Any]:
    """What decides a run's course, in plain values."""
    values = {n: v for n, v in asdict(options).items() if n not in _COSTS}
    return values | {
        "model": base.name,
        "weights": sha256(repr(base).encode()).hexdigest()[:16],
        "samples": _digest(data),
    }


def _digest(data: TrainingSet) -> str:
    digest = sha256()
    for rows in (data.rows, data.held_out):
        for row in rows:
            digest.update(row.ids.tobytes() + row.targets.tobytes())
            digest.update(row.positions.tobytes() + row.feature_rows.tobytes())
            digest.update(repr(row.images).encode())
        digest.update(b"|")
    return f"{len(data.rows)} + {len(data.held_out)}, {digest.hexdigest()[:16]}"
