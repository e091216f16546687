"""Evaluates a stored MIL program in NumPy, on any machine.

It shares no code with the builder or the MLX model, so that it checks both. A device's
order of summation is not known; the modes of `mil_rounding` bound its effect.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreml.mil_operations import OPERATIONS
from fastvlm_mlx.convert.coreml.mil_rounding import (
    MODES,
    gelu_float16,
    no_rounding,
    round_to_float16,
    to_float32,
)
from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation, is_constant
from fastvlm_mlx.errors import CheckpointError, OptionError

# They only move values: no rounding, and no new range.
MOVES = {"reshape", "transpose", "split", "concat", "squeeze"}
UNRANGED = {"cast"}


@dataclass
class Ranges:
    """The largest magnitudes in a program, in float32 before rounding, by operation.

    Attributes:
        largest: of the result.
        squares: of the sum of squares inside a LayerNorm.
    """

    largest: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)

    def record(self, operation: Operation, x: np.ndarray) -> None:
        magnitude = max(float(x.max()), -float(x.min())) if x.size else 0.0
        before = self.largest.get(operation.name, 0.0)
        # max() may drop a NaN, which must be reported.
        self.largest[operation.name] = (
            magnitude if np.isnan(magnitude) else max(before, magnitude)
        )

    def record_norm(self, operation: Operation, inputs: dict[str, Any]) -> None:
        x = inputs["x"]
        x = x - x.mean(tuple(inputs["axes"]), keepdims=True)
        total = float((x * x).sum(tuple(inputs["axes"])).max())
        before = self.squares.get(operation.name, 0.0)
        self.squares[operation.name] = max(before, total)


def evaluate(
    function: Function,
    inputs: dict[str, np.ndarray],
    *,
    mode: str = "typed",
    ranges: Ranges | None = None,
) -> dict[str, np.ndarray]:
    """The outputs of `function` by name, as float32 arrays.

    Args:
        inputs: by name, of the declared shapes.
        mode: `exact`, `typed` or `strict`; see `mil_rounding`.
        ranges: records the largest magnitudes.
    Raises:
        CheckpointError: the program has an operation that is not implemented here.
        OptionError: an unknown mode, or an input is missing or misshapen.
    """
    if mode not in MODES:
        raise OptionError(f"mode {mode!r:.200}: unknown; use {', '.join(MODES)}")
    values: dict[str, Any] = {}
    for each in function.inputs:
        given = inputs.get(each.name)
        if given is None or given.shape != each.shape:
            shape = None if given is None else given.shape
            raise OptionError(f"input {each.name} is {shape}, not {each.shape}")
        values[each.name] = given.astype(np.float32)
    uses = Counter(
        name
        for operation in function.operations
        for given in operation.inputs.values()
        for name in given
        if isinstance(name, str)
    )
    uses.update(function.outputs)
    for operation in function.operations:
        results = _run(operation, values, mode, ranges)
        for output, result in zip(operation.outputs, results, strict=True):
            values[output.name] = result
        # A value is freed after its last use: memory stays at a few maps.
        for given in operation.inputs.values():
            for name in given:
                if isinstance(name, str):
                    uses[name] -= 1
                    if not uses[name]:
                        del values[name]
    return {name: to_float32(values[name]) for name in function.outputs}


def _run(
    operation: Operation,
    values: dict[str, Any],
    mode: str,
    ranges: Ranges | None,
) -> list[np.ndarray]:
    if operation.type == "const":
        return [_argument("val", operation.inputs["val"], values)]
    if operation.type not in OPERATIONS:
        raise CheckpointError(
            f"operation {operation.name} is a {operation.type}, which cannot be"
            " evaluated here; verify the package on a Mac"
        )
    half = [output.dtype == "float16" for output in operation.outputs]
    given = {
        name: _argument(name, items, values) for name, items in operation.inputs.items()
    }
    if operation.type == "gelu" and half[0] and mode != "exact":
        # By table, without `ranges`: |GELU(x)| <= |x|, whose range is recorded.
        with np.errstate(over="ignore"):
            return [gelu_float16(given["x"].astype(np.float16), mode == "strict")]
    step = round_to_float16 if mode == "strict" and half[0] else no_rounding
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        result = OPERATIONS[operation.type](given, step)
    results = result if isinstance(result, list) else [result]
    if ranges is not None and operation.type not in UNRANGED | MOVES:
        if not is_constant(operation):
            for each in results:
                ranges.record(operation, each)
        if operation.type == "layer_norm":
            ranges.record_norm(operation, given)
    if mode == "exact" or operation.type in MOVES:
        return results
    return [_typed(each, is_half) for each, is_half in zip(results, half, strict=True)]


def _typed(x: np.ndarray, half: bool) -> np.ndarray:
    return round_to_float16(x) if half else x


def _argument(name: str, items: list[Any], values: dict[str, Any]) -> Any:
    found = [
        values[item] if isinstance(item, str) else _constant(item) for item in items
    ]
    # Only concat and einsum take several values under one name.
    return found if name == "values" else found[0]


def _constant(array: np.ndarray) -> np.ndarray:
    return to_float32(array) if array.dtype.kind == "f" else array
