"""Finds the weight files of a checkpoint and loads their tensors lazily.

Nothing is read from disk before it is used, so a checkpoint larger than memory can be
converted shard by shard.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError, quoted
from fastvlm_mlx.files.installation import install_command
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.model_file import check_regular
from fastvlm_mlx.files.safetensors_header import check_file
from fastvlm_mlx.files.standard_descriptors import open_closed_descriptors

Tensors = dict[str, mx.array]

PICKLES = (".bin", ".pt", ".pth")
INDEX = "model.safetensors.index.json"

# Of a folder without an index, these alone are the model where they exist; beside
# them may lie adapters, optimizer states and the like.
_MODEL_FILES = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|pytorch_model(-\d+-of-\d+)?\.bin"
)
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


def cast(tensors: Tensors, dtype: mx.Dtype) -> Tensors:
    """Gives what is of floating point another dtype; packed weights pass through."""
    return {
        name: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
        for name, array in tensors.items()
    }


def weight_files(source: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: those the index names, or else
    every safetensors file, or else every pickle.

    Raises:
        CheckpointError: there are none, or one of several shards is missing.
    """
    if source.is_file():
        if source.suffix.lower() not in (".safetensors", *PICKLES):
            raise CheckpointError(
                f"{source}: not a checkpoint; give a folder, a .zip, or a .safetensors"
            )
        return [source]
    if not source.is_dir():
        check_regular(source)
    for index in (INDEX, "pytorch_model.bin.index.json"):
        if (source / index).exists():
            return _indexed(source, index)
    for suffixes in ((".safetensors",), PICKLES):
        files = sorted(f for f in source.iterdir() if _holds_weights(f, suffixes))
        files = [f for f in files if _MODEL_FILES.fullmatch(f.name)] or files
        if files:
            _check_shards(files)
            return files
    raise CheckpointError(
        f"{source}: no weights there (*.safetensors); give a checkpoint's folder"
    )


def _holds_weights(file: Path, suffixes: tuple[str, ...]) -> bool:
    # macOS leaves `._NAME` beside NAME on other file systems and in archives.
    return (
        file.suffix in suffixes and not file.name.startswith(".") and not file.is_dir()
    )


def _indexed(source: Path, index: str) -> list[Path]:
    shards = read_json(source / index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(
            f"{source / index}: has no weight_map; download the file again"
        )
    for name in shards.values():
        # Shard names must be plain file names: the index is untrusted.
        if not _is_file_name(name):
            raise CheckpointError(
                f"{source / index}: names the shard {name!r:.200}, which is not a file"
                " beside it; download the checkpoint again"
            )
    files = [source / name for name in sorted(set(shards.values()))]
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return files
    # Shards that were merged into one file leave their index behind.
    whole = source / f"{index.partition('.')[0]}{files[0].suffix}"
    if whole.is_file() and whole not in files and len(missing) == len(files):
        return [whole]
    file = missing[0]
    if file.exists():
        check_regular(file)
    raise CheckpointError(
        f"{file}: this shard, which {index} names, is missing; download it too"
    )


def _is_file_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name not in ("", "..")
        and name.isprintable()
        and len(name.encode()) <= 255
    )


def _check_shards(files: list[Path]) -> None:
    """`model-00001-of-00002` alone is half a model."""
    numbers = [match for file in files if (match := _SHARD.search(file.name))]
    for count in {int(match[2]) for match in numbers}:
        there = {int(match[1]) for match in numbers if int(match[2]) == count}
        if missing := sorted(set(range(1, min(count, 10**5) + 1)) - there):
            raise CheckpointError(
                f"{files[0].parent}: shard {missing[0]} of {count} is missing;"
                " download it too"
            )


def load_tensors(file: Path) -> Tensors:
    """The tensors of one file, unread until used.

    Raises:
        CheckpointError: the file is damaged, or a pickle and torch is not installed.
    """
    if file.suffix.lower() in PICKLES:
        return _load_pickle(file)
    open_closed_descriptors()
    check_file(file)
    try:
        loaded = mx.load(_for_mlx(file), format="safetensors")
    except (RuntimeError, ValueError, OSError) as fault:
        reason = quoted(fault).removeprefix("[load_safetensors] ")
        raise CheckpointError(
            f"{file}: damaged or incomplete ({reason}); download it again"
        ) from fault
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file}: holds no named tensors; download it again")
    return loaded


class _KeptByMLX(io.BufferedReader):
    """A file that is closed when MLX lets go of it, once the tensors are read."""

    def __del__(self) -> None:
        self.close()


def _for_mlx(file: Path) -> str | BinaryIO:
    """What MLX opens: the path, or the open file where the path is no UTF-8 text."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return _KeptByMLX(io.FileIO(file))
    return str(file)


@contextmanager
def reading(place: Path | None = None) -> Iterator[None]:
    """Refuses weights that change while they are read, some time after their check.

    Goes around whatever first uses the tensors, since they are read only then.

    Args:
        place: the folder or file they are in, if there is one to watch.
    Raises:
        CheckpointError: a weight file was cut or written to.
    """
    named = f"{place}: its" if place else "the model's"
    changed = CheckpointError(
        f"{named} weights were cut or replaced while they were read; run it again once"
        " they are whole"
    )
    before = _stamps(place)
    try:
        yield
    except Exception as fault:
        # MLX raises for one of several failed reads: what the others hold can make
        # anything fail.
        if str(fault).startswith("[read]") or _is_changed(place, before):
            _forget_failed_reads()
            raise changed from fault
        raise
    if _is_changed(place, before):
        raise changed


def _forget_failed_reads() -> None:
    """Drops the errors that MLX holds back.

    Of several reads that fail, MLX raises for one. What still waits in the queue of the
    CPU's stream raises where something is evaluated next, whatever that is, as often
    as reads fail until then. An evaluation that passes has come after all of them.
    """
    while True:
        try:
            mx.eval(mx.add(mx.zeros(1, stream=mx.cpu), 1, stream=mx.cpu))
            return
        except RuntimeError as fault:
            if not str(fault).startswith("[read]"):
                raise


def _is_changed(place: Path | None, before: dict[int, tuple[int, int]]) -> bool:
    # What was deleted or renamed over stays readable for who has it open.
    now = _stamps(place)
    return any(now.get(file, stamp) != stamp for file, stamp in before.items())


def _stamps(place: Path | None) -> dict[int, tuple[int, int]]:
    """Size and time of each weight file, by its inode."""
    if place is None or not place.exists():
        return {}
    found = place.iterdir() if place.is_dir() else (place,)
    suffixes = (".safetensors", *PICKLES)
    files = [file for file in found if _holds_weights(file, suffixes)]
    stats = [file.stat() for file in files if file.is_file()]
    return {stat.st_ino: (stat.st_size, stat.st_mtime_ns) for stat in stats}


def load_all_tensors(folder: Path) -> Tensors:
    """All tensors of a checkpoint folder, by name, not read yet.

    Raises:
        CheckpointError: there are none, or a file is missing or damaged.
    """
    tensors: Tensors = {}
    for file in weight_files(folder):
        tensors |= load_tensors(file)
    return tensors


def _load_pickle(file: Path) -> Tensors:
    # A pickle can run any code; only torch's restricted reader is let near one.
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as fault:
        raise CheckpointError(
            f"{file}: a pickle needs torch to be read safely;"
            f" {install_command('torch')}, or get the checkpoint as .safetensors"
        ) from fault
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds on a bad file
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise CheckpointError(
            f"{file}: not a plain checkpoint ({reason:.120}); get it as .safetensors"
        ) from fault
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{file}: holds a {type(state).__name__}, not named tensors;"
            " get the checkpoint as .safetensors"
        )
    return {
        str(name): _from_torch(value)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _from_torch(tensor: Any) -> mx.array:
    import torch  # pyright: ignore[reportMissingImports]

    tensor = tensor.detach().contiguous()
    # NumPy has no bfloat16: carry its bits.
    if tensor.dtype == torch.bfloat16:
        return mx.array(tensor.view(torch.int16).numpy()).view(mx.bfloat16)
    # No model of ours needs more, and a GPU has no float64.
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    return mx.array(tensor.numpy())
