"""Finds operations of a stored program that may not run well on the Neural Engine.

Apple documents no list. The rules are from ml-ane-transformers, coreai-models and
reports, with sources in docs/coreml.md. Only a device can tell where an operation runs:
`fastvlm-mlx verify PACKAGE --device` on a Mac.
"""

from dataclasses import dataclass

import numpy as np

from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation

MAX_RANK = 5
MAX_DIMENSION = 16384
MAX_KERNEL = 13

# The last axis is padded to 64 bytes: 32 float16 numbers.
FULL_AXIS = 32


@dataclass(frozen=True)
class Finding:
    """One rule, and the operations that break it.

    Attributes:
        reason: the rule.
        operations: their names.
        leaves: they run on another device; if False, they are only slow.
    """

    reason: str
    operations: tuple[str, ...]
    leaves: bool = True

    def __str__(self) -> str:
        verb = "leave the Neural Engine" if self.leaves else "use it poorly"
        count = len(self.operations)
        noun = "operation" if count == 1 else "operations"
        return f"{count} {noun} may {verb}: {self.reason} (first {self.operations[0]})"


def check(function: Function) -> list[Finding]:
    """The rules that `function` breaks: first those that leave the Neural Engine."""
    operations = list(function.computing())
    dynamic = any(None in value.shape for value in function.inputs)
    kernels = [op for op in operations if _kernel(op) > MAX_KERNEL]
    rules = (
        ("float32 arithmetic", _of_type(operations, "float32"), True),
        ("int32 arithmetic", _of_type(operations, "int32"), True),
        (
            "a shape that is not fixed",
            [op for op in operations if dynamic or None in op.outputs[0].shape],
            True,
        ),
        (
            f"more than {MAX_RANK} axes",
            [op for op in operations if len(op.outputs[0].shape) > MAX_RANK],
            True,
        ),
        (
            f"an axis longer than {MAX_DIMENSION}",
            [op for op in operations if _longest(op) > MAX_DIMENSION],
            True,
        ),
        (f"a window wider than {MAX_KERNEL}", kernels, True),
        (
            f"a last axis under {FULL_AXIS}, padded to it",
            [op for op in operations if _narrow(op)],
            False,
        ),
    )
    return [
        Finding(reason, tuple(op.name for op in found), leaves)
        for reason, found, leaves in rules
        if found
    ]


def _of_type(operations: list[Operation], dtype: str) -> list[Operation]:
    # The casts at both ends convert the app's float32 arrays; they are cheap anywhere.
    return [
        op
        for op in operations
        if op.outputs[0].dtype == dtype and op.type not in ("cast", "const")
    ]


def _longest(operation: Operation) -> int:
    return max((n for n in operation.outputs[0].shape if n is not None), default=0)


def _narrow(operation: Operation) -> bool:
    shape = operation.outputs[0].shape
    if len(shape) < 4 or shape[-1] is None or operation.outputs[0].dtype != "float16":
        return False
    vector = shape[-1] == 1 and shape[-2] == 1  # a gate of one number a channel: tiny
    return shape[-1] < FULL_AXIS and not vector


def _kernel(operation: Operation) -> int:
    given = operation.inputs.get("kernel_sizes", [""])[0]
    return int(np.max(given)) if isinstance(given, np.ndarray) else 0
