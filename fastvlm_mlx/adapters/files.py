"""Reads and writes the folder of an adapter, in mlx-lm's format.

`adapter_config.json` and `adapters.safetensors` are what mlx-lm reads and writes. A
trained projector lies beside them in `projector.safetensors`, where mlx-lm does not
look.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.spec import OUR_KEY, AdapterSpec
from fastvlm_mlx.errors import AdapterError, CheckpointError
from fastvlm_mlx.files.atomic_write import staged_file, staged_folder
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.own_output import OutputKind
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.weights.weight_files import Tensors, load_tensors, reading

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
PROJECTOR = "projector.safetensors"

FORMATS = ("mlx", "peft")


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        spec: what it changes.
        tensors: those of the language model, named as in `layers.adapter_tensors`.
        projector: a projector's weights, `layers.0.weight` (out, in) and so on; None
            where the model's own stays.
        base: the model it was trained on, if the file says so.
        folder: where it was read from, for messages.
    """

    spec: AdapterSpec
    tensors: Tensors
    projector: Tensors | None = None
    base: BaseRecord | None = None
    folder: Path | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        arrays = [*self.tensors.values(), *(self.projector or {}).values()]
        return sum(array.nbytes for array in arrays)


def read_adapter(folder: str | Path) -> Adapter:
    """Reads the adapter in `folder`, all of it.

    Raises:
        AdapterError: there is none, or it is damaged or of a form we cannot honour.
        CheckpointError: a file of it is damaged.
    """
    place = expand_user(folder)
    _check_folder(folder, place)
    config = read_json(place / CONFIG)
    with naming(place):
        spec = AdapterSpec.from_config(config)
        ours = config.get(OUR_KEY)
        base = BaseRecord.from_dict(
            ours.get("base") if isinstance(ours, dict) else None
        )
    tensors = _read_tensors(place, WEIGHTS)
    projector = _read_tensors(place, PROJECTOR) if spec.projector else None
    return Adapter(spec, tensors, projector, base, place)


def write_adapter(
    folder: str | Path,
    adapter: Adapter,
    *,
    format: str = "mlx",
    overwrite: bool = False,
    companions: Iterable[Path] = (),
) -> None:
    """Writes the adapter to a folder, which appears when it is complete.

    Args:
        folder: the folder to make.
        adapter: what to write.
        format: `mlx` or `peft`.
        overwrite: replaces `folder` if it is an adapter.
        companions: files to copy beside it, such as a licence.
    Raises:
        AdapterError: the format is unknown or cannot hold this adapter.
        OptionError: `folder` exists, cannot be written, or the disk fills up.
    """
    with staged_folder(folder, overwrite=overwrite, kind=ADAPTER_FOLDER) as partial:
        for file in companions:
            shutil.copyfile(file, partial / file.name)
        for name, content in encoded(adapter, format).items():
            _write(partial / name, content)


def update_adapter(folder: Path, adapter: Adapter, *, format: str = "mlx") -> None:
    """Replaces the adapter's files in a folder that holds others too.

    Each file is written aside and renamed, the weights first.

    Raises:
        AdapterError, OptionError: as `write_adapter`.
    """
    for name, content in encoded(adapter, format).items():
        with staged_file(folder / name, overwrite=True) as partial:
            _write(partial, content)


def encoded(adapter: Adapter, format: str) -> dict[str, Tensors | dict[str, Any]]:
    """The files of an adapter by name: tensors or the object of a JSON file.

    Raises:
        AdapterError: the format is unknown.
    """
    if format not in FORMATS:
        raise AdapterError(
            f"adapter format {format!r:.200}: unknown; use {' or '.join(FORMATS)}"
        )
    spec = replace(adapter.spec, projector=adapter.projector is not None)
    ours: dict[str, Any] = {"projector": spec.projector}
    if adapter.base is not None:
        ours["base"] = adapter.base.to_dict()
    files: dict[str, Tensors | dict[str, Any]] = {WEIGHTS: adapter.tensors}
    if adapter.projector is not None:
        files[PROJECTOR] = adapter.projector
    return files | {CONFIG: spec.to_config() | {OUR_KEY: ours}}


def _write(file: Path, content: Tensors | dict[str, Any]) -> None:
    if ".json" in file.name:
        file.write_text(json.dumps(content, indent=2) + "\n")
        return
    with file.open("wb") as opened:
        mx.save_safetensors(opened, dict(content), metadata={"format": "mlx"})


def _check_folder(folder: str | Path, place: Path) -> None:
    wanted = f"give the folder of an adapter, which has {CONFIG} and {WEIGHTS}"
    if not os.path.lexists(place):
        raise AdapterError(f"{folder}: no such folder; {wanted}")
    if not place.is_dir():
        raise AdapterError(f"{folder}: is no folder; {wanted}")
    if not os.path.lexists(place / CONFIG):
        if (place / "config.json").exists():
            raise AdapterError(f"{folder}: is a model, not an adapter; {wanted}")
        raise AdapterError(f"{folder}: has no {CONFIG}; {wanted}")


def _read_tensors(folder: Path, name: str) -> Tensors:
    file = folder / name
    if not os.path.lexists(file):
        raise AdapterError(
            f"{folder}: has no {name}, which its {CONFIG} promises; copy the whole"
            " folder again"
        )
    tensors = load_tensors(file)
    with reading(folder):
        mx.eval(tensors)
    for each, array in tensors.items():
        if mx.issubdtype(array.dtype, mx.floating) and not mx.isfinite(array).all():
            raise AdapterError(
                f"{file}: tensor {each:.200} holds numbers that are not finite; train"
                " it again with a lower learning rate"
            )
    return tensors


@contextmanager
def naming(folder: Path | None) -> Iterator[None]:
    """Errors about an adapter that are raised within name its folder."""
    try:
        yield
    except AdapterError as error:
        if folder is None or str(error).startswith(f"{folder}:"):
            raise
        raise AdapterError(f"{folder}: {error}") from error


def _wrote_adapter(folder: Path) -> bool:
    try:
        return isinstance(read_json(folder / CONFIG).get(OUR_KEY), dict)
    except CheckpointError:
        return False


# What training puts beside an adapter's own files is part of it.
_FILES = re.compile(
    r"adapter_config\.json|adapters\.safetensors|projector\.safetensors"
    r"|adapter_model\.safetensors|log\.jsonl|README\.md"
    r"|(LICENSE|ACKNOWLEDGEMENTS|MODEL_CARD)[^/]*"
)
ADAPTER_FOLDER = OutputKind("an adapter", _FILES, _wrote_adapter)
