"""`fastvlm-mlx info` of a Core AI folder, read without Core AI."""

from pathlib import Path
from typing import Any

from fastvlm_mlx.convert.outputs import COREAI_METADATA
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.json_file import read_json

# Where Core AI keeps what the writer of an asset says of it.
WRITERS_VALUES = "creatorDefinedMetadata"


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder that apple/coreai-models' runner may read."""
    file = path / COREAI_METADATA
    if not file.is_file() or (path / "config.json").exists():
        return False
    try:
        return read_json(file).get("kind") == "vlm"
    except CheckpointError:
        return False


def gather(folder: Path) -> dict[str, Any]:
    """What the folder says of itself, as `--json` prints it; sizes in bytes.

    Raises:
        CheckpointError: a file of metadata is damaged, or an asset is missing.
    """
    metadata = read_json(folder / COREAI_METADATA)
    assets = metadata.get("assets")
    if not isinstance(assets, dict):
        raise CheckpointError(f"{folder / COREAI_METADATA}: names no assets")
    found = {}
    for role, name in assets.items():
        place = folder / str(name)
        if not place.is_dir():
            raise CheckpointError(
                f"{folder}: {name}, its {role}, is missing; export it again"
            )
        values = read_json(place / COREAI_METADATA).get(WRITERS_VALUES)
        found[role] = {
            "file": name,
            "bytes": sum(f.stat().st_size for f in place.rglob("*") if f.is_file()),
            **(values if isinstance(values, dict) else {}),
        }
    return {
        "model": str(folder),
        "format": "Core AI",
        "name": metadata.get("name"),
        "assets": found,
        "language": metadata.get("language"),
        "vision": metadata.get("vision"),
    }


def table(facts: dict[str, Any]) -> str:
    """One row per fact, the names in a column."""
    language, vision = facts["language"] or {}, facts["vision"] or {}
    rows = {
        "model": facts["model"],
        "format": "Core AI, for apple/coreai-models' runner on macOS 27",
        **{role: _asset(asset) for role, asset in facts["assets"].items()},
        "images": f"{vision.get('image_size')} px, {vision.get('image_strategy')},"
        f" {vision.get('image_token_count')} tokens",
        "language": f"vocabulary {language.get('vocab_size')}, context"
        f" {language.get('max_context_length')}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def _asset(asset: dict[str, Any]) -> str:
    text = f"{asset['file']}, {format_size(asset['bytes'])}"
    for key in ("precision", "compression", "source", "converter"):
        if asset.get(key) not in (None, "none"):
            text += f", {asset[key]}"
    return text
