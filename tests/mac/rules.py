"""What a graph must be for Metal to run it by fast kernels, and what is not so."""

from collections.abc import Iterator

from fastvlm_mlx.model.ops import FUSED_HEADS
from tests.mac.graph import VIEWS, Graph, Kernel

LARGEST_ARRAY = 10**9  # bytes; `maxBufferLength` of an 8 GB Mac is a few of them


def faults(graph: Graph, vocab_size: int | None = None) -> list[str]:
    """One line for each thing of `graph` that Metal has no fast kernel for.

    `vocab_size` is given for a language model, whose logits must be of one row.
    """
    return [
        *_strided(graph),
        *_unfused_attention(graph),
        *_slow_convolutions(graph),
        *_large_arrays(graph),
        *_many_logits(graph, vocab_size),
    ]


def _strided(graph: Graph) -> Iterator[str]:
    # mlx/backend/common/compiled.cpp: all inputs contiguous and of one shape, or the
    # kernel computes one element a thread.
    for kernel in graph.kernels:
        shape = kernel.outputs[0].shape
        for array in kernel.inputs:
            if kernel.fused > 1 and array.shape not in ((), shape):
                yield f"{kernel.name} broadcasts {array.shape} to {shape}"


def _unfused_attention(graph: Graph) -> Iterator[str]:
    # mlx/backend/metal/scaled_dot_product_attention.cpp
    for attention in graph.attentions:
        if attention.head_dim not in FUSED_HEADS:
            yield f"attention with heads of {attention.head_dim}"
        if attention.mask not in (None, "causal"):
            yield f"attention with a mask that is an {attention.mask}"


def _slow_convolutions(graph: Graph) -> Iterator[str]:
    # mlx/backend/metal/conv.cpp: `depthwise_conv_2D_gpu`
    for kernel in graph.kernels:
        if kernel.name != "Convolution":
            continue
        strides, groups = kernel.arguments[0], kernel.arguments[5]
        (x, weight), channels = kernel.inputs, kernel.outputs[0].shape[-1]
        fast = (
            groups == channels == x.shape[-1]
            and channels % 16 == 0
            and max(weight.shape[1:3]) <= 7
            and max(strides) <= 2
        )
        if groups > 1 and not fast:
            yield f"grouped convolution of {x.shape} by {weight.shape}, {strides}"


def _large_arrays(graph: Graph) -> Iterator[str]:
    for kernel in graph.kernels:
        for array in kernel.outputs:
            if kernel.name not in VIEWS and array.nbytes > LARGEST_ARRAY:
                yield f"{kernel.name} writes {array.shape}, {array.nbytes} bytes"


def _many_logits(graph: Graph, vocab_size: int | None) -> Iterator[str]:
    for kernel in graph.kernels:
        shape = kernel.outputs[0].shape
        if kernel.name in VIEWS:  # the transposed weight
            continue
        if shape[-1:] == (vocab_size,) and _rows(kernel) > 1:
            yield f"logits of {_rows(kernel)} rows"


def _rows(kernel: Kernel) -> int:
    rows = 1
    for size in kernel.outputs[0].shape[:-1]:
        rows *= size
    return rows
