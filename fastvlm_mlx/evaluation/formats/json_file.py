"""JSON files as benchmarks have them: one document, or an object a line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_mlx.data.located import read_bytes
from fastvlm_mlx.errors import DataError

NO_ANSWER = "no answer is published for it"


def read_json(path: Path) -> Any:
    """The document of a file.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "") or type(error).__name__
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"{path}:{line}: not JSON ({reason.lower()}); download the file again"
        ) from None


def rows_of(path: Path, document: Any, key: str | None) -> list[Mapping[str, Any]]:
    """The objects of the list under `key`, or of the list that the document is.

    Raises:
        DataError: there is no such list, or it holds something else.
    """
    rows = document
    if key is not None:
        rows = document.get(key) if isinstance(document, Mapping) else None
    place = f'no list under "{key}"' if key is not None else "not a list"
    if not isinstance(rows, list):
        raise DataError(f"{path}: {place}; download the file again")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{path}: question {number} is no object; download the file again"
            )
    return rows


def numbered(
    path: Path, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place, for messages."""
    for number, row in enumerate(rows, start=1):
        yield f"{path}: question {number}", row


def prefer(files: Sequence[Path], words: Sequence[str]) -> list[Path]:
    """The files with the first of these words in their names; all if none has any."""
    for word in words:
        if found := [file for file in files if word in file.name.lower()]:
            return found
    return list(files)


def only(files: Sequence[Path]) -> Path:
    """The one file.

    Raises:
        DataError: there are several.
    """
    if len(files) > 1:
        names = ", ".join(str(file.name) for file in files[:4])
        raise DataError(
            f"{files[0].parent}: holds several data files ({names}); name one, such as"
            f" {files[0]}"
        )
    return files[0]
