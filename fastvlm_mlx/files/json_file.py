"""Reads a JSON file that must hold one object."""

import json
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Reads one JSON object from `path`; an `optional` file that is not there is {}.

    Raises:
        CheckpointError: the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        if optional:
            return {}
        raise CheckpointError(
            f"{path}: no such file; a model folder needs it"
        ) from fault
    except OSError as fault:
        raise CheckpointError(
            f"{path}: cannot be read ({fault.strerror}); check its permissions"
        ) from fault
    # JSONDecodeError and UnicodeDecodeError are ValueErrors, and so is a number of
    # more digits than Python reads.
    except (ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{path}: not valid JSON ({fault}); download the file again"
        ) from fault
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path}: holds a {type(values).__name__}, not an object;"
            " download the file again"
        )
    return values
