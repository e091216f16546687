"""The kernels that Metal would run for a function, found by tracing it on any machine.

`mx.export_function` gives every operation with its shapes. MLX's own fusion is then
applied as `mlx/compile.cpp` does it: element-wise operations of one shape, each of
whose results is used inside alone, become one kernel. Operations of `mx.fast`, which
a CPU spells out, are one node here as they are on a GPU.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from unittest.mock import patch

import mlx.core as mx

VIEWS = {
    "AsStrided",  # stands for an operation of `mx.fast`
    "Broadcast",
    "ExpandDims",
    "Flatten",
    "Full",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unflatten",
}
FUSABLE = {
    "Abs",
    "Add",
    "AsType",
    "Broadcast",
    "Divide",
    "Erf",
    "Exp",
    "Maximum",
    "Minimum",
    "Multiply",
    "Negative",
    "Select",
    "Sigmoid",
    "Square",
    "Sqrt",
    "Subtract",
    "Tanh",
}


@dataclass(frozen=True)
class Array:
    """A value of the graph: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    memory: int | None = None  # bytes, if fewer than the shape says

    @property
    def nbytes(self) -> int:
        if self.memory is not None:
            return self.memory
        return prod(self.shape) * self.dtype.size


@dataclass(frozen=True)
class Kernel:
    """One operation, or several element-wise ones in one kernel (`fused` > 1)."""

    name: str
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    arguments: tuple[Any, ...] = ()
    fused: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes read and written; none by a view."""
        if self.name in VIEWS:
            return 0
        return sum(array.nbytes for array in {*self.inputs, *self.outputs})


@dataclass(frozen=True)
class Attention:
    """A call of `mx.fast.scaled_dot_product_attention`."""

    heads: int
    head_dim: int
    queries: int
    keys: int
    mask: str | None  # as it was passed, or "array"
    itemsize: int

    @property
    def scores(self) -> int:
        """Bytes of its scores, which are in memory only if no kernel is fused."""
        return self.heads * self.queries * self.keys * self.itemsize


@dataclass(frozen=True)
class Graph:
    kernels: tuple[Kernel, ...]
    attentions: tuple[Attention, ...]

    @property
    def nbytes(self) -> int:
        return sum(kernel.nbytes for kernel in self.kernels)


def trace(function: Callable[..., Any], *arrays: mx.array) -> Graph:
    """The kernels of `function(*arrays)`, which is not computed."""
    records: list[dict[str, Any]] = []
    with _fast_operations_as_nodes() as attentions:
        mx.export_function(records.append, function, *arrays)
    kernels: list[Kernel] = []
    repeated: dict[str, int] = {}  # bytes in memory of what is broadcast
    for record in records:
        if record["type"] != "primitive":
            continue
        inputs = [Array(*each) for each in record["inputs"]]
        inputs = [replace(i, memory=repeated.get(i.name)) for i in inputs]
        outputs = [Array(*each) for each in record["outputs"]]
        if record["name"] == "Broadcast":
            repeated[outputs[0].name] = inputs[0].nbytes
        kernels.append(
            Kernel(
                record["name"],
                tuple(inputs),
                tuple(outputs),
                tuple(record["arguments"]),
            )
        )
    return Graph(tuple(_fuse(kernels)), tuple(attentions))


@contextmanager
def _fast_operations_as_nodes() -> Iterator[list[Attention]]:
    attentions: list[Attention] = []

    def node(x: mx.array, *_: Any, **__: Any) -> mx.array:
        return mx.as_strided(x, x.shape)

    def attend(
        q: mx.array, k: mx.array, v: mx.array, *, mask: Any = None, **_: Any
    ) -> mx.array:
        kind = mask if mask is None or isinstance(mask, str) else "array"
        heads, queries, head_dim = q.shape[-3:]
        attentions.append(
            Attention(heads, head_dim, queries, k.shape[-2], kind, q.itemsize)
        )
        return node(q)

    with ExitStack() as stack:
        for name in ("layer_norm", "rms_norm", "rope"):
            stack.enter_context(patch.object(mx.fast, name, node))
        stack.enter_context(
            patch.object(mx.fast, "scaled_dot_product_attention", attend)
        )
        yield attentions


def _fuse(kernels: list[Kernel]) -> Iterator[Kernel]:
    makers = {out.name: kernel for kernel in kernels for out in kernel.outputs}
    users: dict[str, set[str]] = defaultdict(set)
    for kernel in kernels:
        for array in kernel.inputs:
            users[array.name].add(kernel.outputs[0].name)
    taken: set[str] = set()
    fused: list[Kernel] = []
    for kernel in reversed(kernels):
        name = kernel.outputs[0].name
        if name in taken or kernel.name not in FUSABLE or kernel.name == "Broadcast":
            continue
        group = _group(kernel, makers, users, taken)
        taken |= {member.outputs[0].name for member in group}
        inside = {out.name for member in group for out in member.outputs}
        inputs = {
            array
            for member in group
            for array in member.inputs
            if array.name not in inside
        }
        label = "".join(member.name for member in reversed(group))
        fused.append(Kernel(label, tuple(inputs), kernel.outputs, fused=len(group)))
    yield from (k for k in kernels if k.outputs[0].name not in taken)
    yield from fused


def _group(
    last: Kernel,
    makers: dict[str, Kernel],
    users: dict[str, set[str]],
    taken: set[str],
) -> list[Kernel]:
    shape, group, names = last.outputs[0].shape, [last], {last.outputs[0].name}
    for member in group:
        for array in member.inputs:
            maker = makers.get(array.name)
            if (
                maker is not None
                and maker.name in FUSABLE
                and array.shape == shape
                and array.name not in taken | names
                and users[array.name] <= names
            ):
                group.append(maker)
                names.add(array.name)
    return group
