"""The finished turns of a run, kept in a file so that an interrupted run goes on.

The first line of the file holds the conditions, every other one a turn, as JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import OptionError

FORMAT = "fastvlm-mlx-peers-turns 1"


class Records:
    """Turns by setting and round.

    Args:
        path: the file; None keeps them in memory alone.
        conditions: what must be the same for turns to be compared.
    Raises:
        OptionError: `path` has turns of other conditions, or no turns at all.
    """

    def __init__(self, path: Path | None, conditions: Mapping[str, Any]):
        self.path = path
        self.turns: list[dict[str, Any]] = []
        head = {"format": FORMAT, **conditions}
        if path is None:
            return
        if not path.exists():
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")
            return
        lines = path.read_bytes().splitlines(keepends=True)
        before = _parsed(lines[0]) if lines else None
        if before is None or before.get("format") != FORMAT:
            raise OptionError(
                f"--resume {path}: no turns of this program; name another"
            )
        for key, value in head.items():
            if before.get(key) != value:
                raise OptionError(
                    f"--resume {path}: its {key} is {before.get(key)!r}, not {value!r};"
                    " name another file"
                )
        # A last line without an end was cut off by whatever ended that run.
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < len(lines):
            path.write_bytes(b"".join(whole))
        found = [_parsed(line) for line in whole[1:]]
        self.turns = [turn for turn in found if turn is not None]

    def add(self, turn: dict[str, Any]) -> None:
        """Keeps a finished turn."""
        self.turns.append(turn)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(turn) + "\n")

    def of(self, setting: str) -> list[dict[str, Any]]:
        """The turns of one setting."""
        return [turn for turn in self.turns if turn["setting"] == setting]

    def has(self, setting: str, number: int) -> bool:
        """Whether this turn is finished."""
        return any(turn["round"] == number for turn in self.of(setting))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
