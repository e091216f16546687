"""Checks of config values: counts, numbers, choices, booleans.

Each raises CheckpointError with the name, the value and the rule. Unchecked, a value of
the wrong type would fail deep in MLX, and one too large would exhaust memory.
"""

from typing import Any

from fastvlm_mlx.errors import CheckpointError

# Ten times the largest published model.
MAX_LAYERS = 1000
MAX_WIDTH = 1 << 20


def check_count(name: str, value: Any, lowest: int = 1, highest: int = MAX_WIDTH):
    """Refuses what is not a whole number from `lowest` to `highest`."""
    if type(value) is not int or not lowest <= value <= highest:
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200} where a whole number from {lowest}"
            f" to {highest} is needed; get the right config.json"
        )


def check_counts(name: str, values: Any, lowest: int = 1, highest: int = MAX_WIDTH):
    if not isinstance(values, tuple):
        raise CheckpointError(
            f"config.json: {name} is {values!r:.200} where a list is needed;"
            " get the right config.json"
        )
    for index, value in enumerate(values):
        check_count(f"{name}[{index}]", value, lowest, highest)


def check_number(name: str, value: Any, highest: float = 1e300):
    """Refuses what is not a number above 0 and at most `highest` (NaN is neither)."""
    if type(value) not in (int, float) or not 0 < value <= highest:
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200} where a number above 0 is needed;"
            " get the right config.json"
        )


def check_bool(name: str, value: Any):
    """Refuses what is not true or false; the string "false" would count as true."""
    if not isinstance(value, bool):
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200} where true or false is needed;"
            " get the right config.json"
        )


def check_choice(name: str, value: Any, choices: tuple[str, ...]):
    if not isinstance(value, str) or value not in choices:
        raise CheckpointError(
            f"config.json: {name} {value!r:.200} is unknown; use one of"
            f" {', '.join(choices)}"
        )
