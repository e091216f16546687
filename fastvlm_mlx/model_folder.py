"""Finds the model folder of a name; converts the source into the cache if needed."""

import contextlib
import os
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.cache_dir import cache_dir, is_homeless
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.files.safetensors_header import check_file
from fastvlm_mlx.files.temporary_names import remove_stale
from fastvlm_mlx.hub.conversion_record import (
    has_record,
    recorded_fault,
    set_aside,
    write_record,
)
from fastvlm_mlx.hub.download import to_stderr
from fastvlm_mlx.hub.local_cache import (
    converted_dir,
    drop_superseded,
    is_conversion,
)
from fastvlm_mlx.hub.locate import is_cached, is_path, locate
from fastvlm_mlx.model.config import FORMAT, ModelConfig
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.weight_files import weight_files


def converted(name: str | Path, *, on_progress: Progress | None = None) -> Path:
    """The folder in our format for `name`, a path or hub id; converts it once.

    A conversion in the cache that is not whole any more is made anew.

    Raises:
        CheckpointError: the source is missing, damaged or of an unknown layout.
        DownloadError: it could not be fetched from the hub.
        OptionError: the cache cannot hold the conversion.
    """
    if not is_cached(name):
        _check_cache(name)  # before a download of gigabytes, not after it
    source = locate(name)
    # A conversion that outlived its source: the source is fetched again if need be.
    if is_conversion(source) and not is_path(name) and (fault := _fault(source)):
        to_stderr(f"{name}: its conversion in the cache is damaged ({fault})")
        with _set_aside(name, source):
            return converted(name, on_progress=on_progress)
    if is_converted(source):
        return source
    out = converted_dir(source)
    if not os.path.lexists(out):
        # Puts back what a process that was killed had set aside.
        remove_stale(out.parent, out.name)
    if not os.path.lexists(out):
        _convert(name, source, out, on_progress)
    elif fault := _fault(out):
        to_stderr(
            f"{name}: its conversion in the cache is damaged ({fault}); making it anew"
        )
        with _set_aside(name, out):
            _convert(name, source, out, on_progress)
    return out


def is_whole(folder: Path) -> bool:
    """Whether a conversion in the cache is there and not damaged."""
    return _fault(folder) is None


def is_converted(folder: Path) -> bool:
    """Whether `folder` is a model folder in our format."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") == FORMAT


def _convert(
    name: str | Path, source: Path, out: Path, on_progress: Progress | None
) -> None:
    # Here, not above: a converted model needs none of the converter.
    from fastvlm_mlx.convert import to_mlx

    if is_homeless(out):
        raise _unwritable(name, "this user has no home folder")
    try:
        to_mlx.convert(source, out, first_wins=True, on_progress=on_progress)
    except OptionError as fault:  # of the output, as no other option is set
        reason = str(fault).removeprefix(f"{out}: ").rpartition("; ")[0]
        raise _unwritable(name, reason or str(fault)) from fault
    write_record(out)
    drop_superseded(out)


def _check_cache(name: str | Path) -> None:
    if is_homeless(cache_dir()):
        raise _unwritable(name, "this user has no home folder")
    try:
        (cache_dir() / "converted").mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise _unwritable(name, str(fault.strerror).lower()) from fault


def _unwritable(name: str | Path, reason: str) -> OptionError:
    return OptionError(
        f"{name}: its conversion cannot be kept in {cache_dir()} ({reason}); set"
        " FASTVLM_CACHE to a folder with room that can be written"
    )


@contextlib.contextmanager
def _set_aside(name: str | Path, folder: Path):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(set_aside(folder))
        except OSError as fault:
            raise _unwritable(name, str(fault.strerror).lower()) from fault
        yield


def _fault(folder: Path) -> str | None:
    """Why a conversion in the cache cannot be used; None if it is whole."""
    try:
        if not folder.is_dir():
            return "it is no folder"
        if fault := recorded_fault(folder):
            return fault
        values = read_json(folder / "config.json")
        if values.get("model_type") != FORMAT:
            return "its config.json is of another format"
        config = ModelConfig.from_dict(values)
        for file in weight_files(folder):
            check_file(file)
        if not has_record(folder):
            if config.text is not None:
                Tokenizer(folder)
            write_record(folder)
    except CheckpointError as fault:
        return str(fault).removeprefix(f"{folder}/").partition(";")[0]
    except OSError as fault:
        return str(fault.strerror or fault).lower()
    return None
