"""Reads and writes the folder of an adapter, in mlx-lm's or in PEFT's format.

`adapter_config.json` and `adapters.safetensors` are what mlx-lm reads and writes, and
`adapter_model.safetensors` with another `adapter_config.json` is PEFT's form. A trained
projector lies beside them in `projector.safetensors`, where neither looks.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.adapters import peft
from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.spec import OUR_KEY, AdapterSpec
from fastvlm_mlx.errors import AdapterError, CheckpointError
from fastvlm_mlx.files.atomic_write import staged_file, staged_folder
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.own_output import OutputKind
from fastvlm_mlx.files.safetensors_header import check_file, read_metadata
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
    """Reads the adapter in `folder`, all of it, in mlx-lm's or PEFT's format.

    Raises:
        AdapterError: there is none, or it is damaged or of a form we cannot honour.
        CheckpointError: a file of it is damaged.
    """
    place = expand_user(folder)
    _check_folder(folder, place)
    config = read_json(place / CONFIG)
    if peft.is_peft(config):
        return _read_peft(place, config)
    with naming(place):
        spec = AdapterSpec.from_config(config)
        base = _base_of(config.get(OUR_KEY))
    tensors = _read_tensors(place, WEIGHTS)
    projector = _read_tensors(place, PROJECTOR) if spec.projector else None
    return Adapter(spec, tensors, projector, base, place)


def _read_peft(place: Path, config: dict[str, Any]) -> Adapter:
    is_pickle = not (place / peft.WEIGHTS).exists() and (place / peft.PICKLE).exists()
    tensors = _read_tensors(place, peft.PICKLE if is_pickle else peft.WEIGHTS)
    noted = {} if is_pickle else read_metadata(place / peft.WEIGHTS)
    projector = None
    with naming(place):
        spec, tensors = peft.from_peft(config, tensors)
        ours = _parsed(noted.get(OUR_KEY))
        base = _base_of(ours)
        if isinstance(ours, dict) and ours.get("projector") is True:
            projector = _read_tensors(place, PROJECTOR)
        elif (place / peft.LLAVA_PROJECTOR).exists():
            theirs = _read_tensors(place, peft.LLAVA_PROJECTOR)
            projector = peft.llava_projector(theirs)
    spec = replace(spec, projector=projector is not None)
    return Adapter(spec, tensors, projector, base, place)


def _base_of(ours: Any) -> BaseRecord | None:
    return BaseRecord.from_dict(ours.get("base") if isinstance(ours, dict) else None)


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


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
            content.write(partial / name)


def update_adapter(folder: Path, adapter: Adapter, *, format: str = "mlx") -> None:
    """Replaces the adapter's files in a folder that holds others too.

    Each file is written aside and renamed, the weights first.

    Raises:
        AdapterError, OptionError: as `write_adapter`.
    """
    for name, content in encoded(adapter, format).items():
        with staged_file(folder / name, overwrite=True) as partial:
            content.write(partial)


def encoded(adapter: Adapter, format: str) -> dict[str, "File"]:
    """The files of an adapter by name, in the order to write them.

    Raises:
        AdapterError: the format is unknown or cannot hold this adapter.
    """
    if format not in FORMATS:
        raise AdapterError(
            f"adapter format {format!r:.200}: unknown; use {' or '.join(FORMATS)}"
        )
    spec = replace(adapter.spec, projector=adapter.projector is not None)
    ours: dict[str, Any] = {"projector": spec.projector}
    if adapter.base is not None:
        ours["base"] = adapter.base.to_dict()
    files: dict[str, File] = {}
    if adapter.projector is not None:
        files[PROJECTOR] = File(adapter.projector)
    if format == "mlx":
        files[WEIGHTS] = File(adapter.tensors)
        return files | {CONFIG: File(values=spec.to_config() | {OUR_KEY: ours})}
    config, tensors = peft.to_peft(
        spec, adapter.tensors, adapter.base and adapter.base.name
    )
    # PEFT warns about keys in its config that it does not know.
    files[peft.WEIGHTS] = File(
        tensors, metadata={"format": "pt", OUR_KEY: json.dumps(ours)}
    )
    return files | {CONFIG: File(values=config)}


@dataclass(frozen=True)
class File:
    """The content of a file: tensors, or the object of a JSON file."""

    tensors: Tensors | None = None
    values: dict[str, Any] | None = None
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "mlx"})

    def write(self, file: Path) -> None:
        """Writes it."""
        if self.tensors is None:
            file.write_text(json.dumps(self.values, indent=2) + "\n")
            return
        tensors = {n: mx.contiguous(array) for n, array in self.tensors.items()}
        with file.open("wb") as opened:
            mx.save_safetensors(opened, tensors, metadata=self.metadata)


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
        config = read_json(folder / CONFIG)
        if peft.is_peft(config):
            check_file(folder / peft.WEIGHTS)
            return OUR_KEY in read_metadata(folder / peft.WEIGHTS)
    except (CheckpointError, OSError):
        return False
    return isinstance(config.get(OUR_KEY), dict)


# What training puts beside an adapter's own files is part of it.
_FILES = re.compile(
    r"adapter_config\.json|adapters\.safetensors|projector\.safetensors"
    r"|adapter_model\.safetensors|log\.jsonl|README\.md"
    r"|(LICENSE|ACKNOWLEDGEMENTS|MODEL_CARD)[^/]*"
)
ADAPTER_FOLDER = OutputKind("an adapter", _FILES, _wrote_adapter)
