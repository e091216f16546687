"""Writes `.aimodel` assets and checks those on disk before Apple's library reads them.

An asset is a folder: `main.mlirb` is the program with its weights, `main.hash` the
SHA-256 of that file, `metadata.json` who made it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json

SUFFIX = ".aimodel"
PROGRAM, DIGEST, METADATA = "main.mlirb", "main.hash", "metadata.json"

MAGIC = b"ML\xefR"  # of MLIR's bytecode

LICENSE = (
    "That of the source checkpoint; Apple's FastVLM weights are for research only"
    " (https://huggingface.co/apple/FastVLM-0.5B/blob/main/LICENSE)"
)


@dataclass(frozen=True)
class Asset:
    """An `.aimodel` whose files are there and whole.

    Attributes:
        path: the folder.
        bytes: of its program.
        values: what `write` was given, as text; empty for assets of other programs.
    """

    path: Path
    bytes: int
    values: Mapping[str, str]

    @property
    def compressed(self) -> bool:
        return self.values.get("compression", "none") != "none"


def write(program: Any, path: Path, description: str, values: dict[str, str]) -> None:
    """Saves `program` (a Core AI AIProgram) at `path`, NAME.aimodel.

    Raises:
        RuntimeError: Core AI could not write, for reasons that it does not say.
    """
    from coreai.runtime import AIModelAssetMetadata

    metadata = AIModelAssetMetadata()
    metadata.author = f"Converted by {values['converter']} from {values['source']}"
    metadata.license = LICENSE
    metadata.model_description = description
    for key, value in values.items():
        metadata.set_custom(key, value)
    program.save_asset(path, metadata)


def values_of(options: CoreAIOptions, converter: str, source: str) -> dict[str, str]:
    """What the metadata of an asset say of how it was made."""
    return {
        "converter": converter,
        "source": source,
        "precision": options.precision,
        "compression": options.compression or "none",
        "norm_prescale": str(options.norm_prescale),
    }


def read(path: Path) -> Asset:
    """Checks the asset at `path`, without Core AI.

    Raises:
        CheckpointError: it is none, incomplete, or its program was changed.
    """
    program = path / PROGRAM
    if path.suffix != SUFFIX or not program.is_file():
        raise CheckpointError(f"{path}: not a Core AI model; give an {SUFFIX}")
    try:
        with program.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        wanted = (path / DIGEST).read_bytes()
    except OSError as fault:
        reason = (fault.strerror or "unreadable").lower()
        raise CheckpointError(
            f"{path}: cannot be read ({reason}); export it again"
        ) from fault
    if digest != wanted:
        raise CheckpointError(
            f"{path}: {PROGRAM} is not the file that {DIGEST} describes; export it"
            " again"
        )
    with program.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(
                f"{path}: {PROGRAM} is no Core AI program; export it again"
            )
    metadata = read_json(path / METADATA)
    return Asset(path, program.stat().st_size, _custom_values(metadata))


def _custom_values(metadata: dict[str, Any]) -> dict[str, str]:
    given = metadata.get("creatorDefinedMetadata")
    given = given if isinstance(given, dict) else {}
    return {str(name): str(value) for name, value in given.items()}
