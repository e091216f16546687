"""The columns that are measured: names, direction, medians."""

import statistics
from collections.abc import Sequence
from typing import Any

MEASURES = {  # the document's name: the table's, and whether less is better
    "ttft": ("TTFT s", True),
    "cold_ttft": ("cold TTFT s", True),
    "follow_up_ttft": ("follow-up s", True),
    "generation_tps": ("tokens/s", False),
    "cpu_seconds": ("CPU s", True),
    "memory": ("memory", True),
}
# The columns that say how fast a setting is, and whether less is better.
SPEEDS = {
    key: MEASURES[key][1]
    for key in ("ttft", "cold_ttft", "follow_up_ttft", "generation_tps")
}


def is_better(key: str, value: float, than: float) -> bool:
    """Whether `value` is strictly better in the column `key`."""
    return value < than if MEASURES[key][1] else value > than


def medians(turns: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of every column that was measured; the peak of all turns for memory."""
    found = {}
    for key in MEASURES:
        if values := [turn[key] for turn in turns if turn.get(key)]:
            found[key] = max(values) if key == "memory" else statistics.median(values)
    return found
