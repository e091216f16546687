"""The state of a training run, and the files that keep it.

    FOLDER/state.safetensors   the run so far: parameters, moments, losses
    FOLDER/best.safetensors    the parameters of the best epoch
    FOLDER/log.jsonl           a line for each step and each epoch

Files are written aside and renamed, so a kill at any moment leaves a state of some
step; what follows a state depends on it alone, and comes out the same again.
"""

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.files.safetensors_header import check_file
from fastvlm_mlx.train.learner import Arrays, Moments

STATE, BEST, LOG = "state.safetensors", "best.safetensors", "log.jsonl"
_RUN, _FACTS = "run", "facts"  # keys of the file's metadata
_PARAMETER = "parameters."


@dataclass(frozen=True)
class Facts:
    """The numbers of a state.

    Attributes:
        step: steps done.
        epoch_loss: sum of the losses of the answers' tokens since the epoch began.
        epoch_tokens: their number.
        train_losses: mean loss of each epoch, while its weights still changed.
        held_out_losses: before the first epoch and after each; None without held-out
            samples.
        best_epoch: the one whose held-out loss is lowest; 0 before the first.
    """

    step: int = 0
    epoch_loss: float = 0.0
    epoch_tokens: float = 0.0
    train_losses: tuple[float, ...] = ()
    held_out_losses: tuple[float | None, ...] = ()
    best_epoch: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Facts":
        """Reads `dataclasses.asdict`'s form out of JSON."""
        return replace(
            cls(**values),
            train_losses=tuple(values["train_losses"]),
            held_out_losses=tuple(values["held_out_losses"]),
        )


@dataclass(frozen=True)
class State:
    """A run after some step; nothing else decides what follows."""

    parameters: Arrays
    moments: Moments
    facts: Facts = Facts()

    def flat(self) -> Arrays:
        """All arrays by name, for a file."""
        arrays = {_PARAMETER + name: array for name, array in self.parameters.items()}
        for name, moments in self.moments.items():
            arrays |= {f"{kind}.{name}": array for kind, array in moments.items()}
        return arrays

    @classmethod
    def from_flat(cls, arrays: Arrays, facts: Facts) -> "State":
        """Reads `flat`'s form."""
        names = [n.removeprefix(_PARAMETER) for n in arrays if n.startswith(_PARAMETER)]
        return cls(
            {name: arrays[_PARAMETER + name] for name in names},
            {n: {"m": arrays[f"m.{n}"], "v": arrays[f"v.{n}"]} for n in names},
            facts,
        )


class StateFiles:
    """The folder of one run.

    Args:
        run: what the run was told, in plain values: a state of another is refused.
    """

    def __init__(self, folder: Path, run: dict[str, Any]):
        self.folder, self.run = folder, run

    def exists(self) -> bool:
        """Whether the folder holds a state."""
        return (self.folder / STATE).exists()

    def write(self, state: State) -> None:
        """Replaces the state.

        Raises:
            OptionError: it cannot be written, as on a full disk; the old one stays.
        """
        facts = json.dumps(asdict(state.facts))
        _write(self.folder / STATE, state.flat(), {_FACTS: facts, _RUN: self._run()})

    def write_best(self, parameters: Arrays) -> None:
        """Replaces the best parameters; errors as of `write`."""
        _write(self.folder / BEST, parameters, {_RUN: self._run()})

    def read(self) -> State:
        """The state that was written last.

        Raises:
            CheckpointError: it is damaged.
            OptionError: it is of a run that was told something else.
        """
        arrays, metadata = _read(self.folder / STATE)
        try:
            before = json.loads(metadata[_RUN])
            facts = Facts.from_dict(json.loads(metadata[_FACTS]))
            state = State.from_flat(arrays, facts)
        except (KeyError, TypeError, ValueError) as fault:
            raise CheckpointError(
                f"{self.folder / STATE}: is no state of a training run; remove"
                f" {self.folder} and begin anew"
            ) from fault
        for name, value in json.loads(self._run()).items():
            if before.get(name) != value:
                raise OptionError(
                    f"{self.folder}: was begun with {name} {_short(before.get(name))},"
                    f" not {_short(value)}; resume it with that, or remove the folder"
                    " and begin anew"
                )
        return state

    def read_best(self) -> Arrays:
        """The best parameters; errors as of `read`."""
        return _read(self.folder / BEST)[0]

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to the log.

        Raises:
            OptionError: it cannot be written.
        """
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise OptionError(
                f"{self.folder / LOG}: cannot be written ({error.strerror}); make"
                " room or choose another folder, then resume"
            ) from error

    def cut_log(self, facts: Facts) -> None:
        """Removes what the log says of what comes again after the state of `facts`."""
        path = self.folder / LOG
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = "".join(f"{line}\n" for line in lines if _is_past(line, facts))
        if kept:
            with staged_file(path, overwrite=True) as partial:
                partial.write_text(kept, encoding="utf-8")
        else:
            path.unlink()

    def _run(self) -> str:
        return json.dumps(self.run, sort_keys=True)


def remove(folder: Path) -> None:
    """Removes a run's files, and `folder` if nothing else is in it."""
    for name in (STATE, BEST, LOG):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_past(line: str, facts: Facts) -> bool:
    try:
        record = json.loads(line)
        past = record["step"] <= facts.step
        if record["event"] == "EpochEnded":
            past = record["epoch"] < len(facts.held_out_losses)
        return past
    except (KeyError, TypeError, ValueError):  # cut by a kill
        return False


def _short(value: Any) -> str:
    return f"{json.dumps(value):.80}"


def _write(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    check_free_space(path.parent, sum(array.nbytes for array in arrays.values()))
    with staged_file(path, overwrite=True) as partial:
        # An open file: of a path MLX would change the ending.
        with partial.open("wb") as opened:
            mx.save_safetensors(opened, arrays, metadata=metadata)
        check_file(partial)


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    check_file(path)
    try:
        with path.open("rb") as opened:
            loaded: Any = mx.load(opened, format="safetensors", return_metadata=True)
            mx.eval(loaded[0])
    except (RuntimeError, ValueError, OSError) as fault:
        raise CheckpointError(
            f"{path}: damaged ({str(fault).splitlines()[0]}); remove {path.parent} and"
            " begin anew"
        ) from fault
    return loaded
