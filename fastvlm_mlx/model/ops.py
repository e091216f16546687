"""Operations of the network whose fastest form depends on the device.

On a GPU they use MLX's own operations with the fewest kernels and bytes: biases and
residuals in the epilogue of a product, depthwise convolutions in the shape that has a
kernel of its own. On a Linux CPU they call `cpu/kernels.py`. The model files call
only these functions and never ask for the device.
"""

from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels


class Layer(Protocol):
    """What holds a weight and a bias: a depthwise convolution, a linear layer."""

    weight: mx.array
    bias: mx.array

    def __call__(self, x: mx.array, /) -> mx.array: ...


def depthwise(
    x: mx.array, conv: Layer, *, stride: int = 1, activate: bool = False
) -> mx.array:
    """Convolves every channel with its own kernel(s), zero-padded to keep the grid.

    Shapes:
        x: (B, H, W, C); conv.weight: (C * multiplier, K, K, 1)
        returns (B, H / stride, W / stride, C * multiplier)
    """
    w, b = conv.weight, conv.bias
    if w.shape[1] in kernels.KERNEL_SIZES and kernels.usable(x, w, b):
        return kernels.depthwise(x, w, b, stride=stride, activate=activate)
    return _add_bias(_depthwise(x, w, stride), b, activate=activate)


def linear(x: mx.array, layer: Layer, *, activate: bool = False) -> mx.array:
    """A linear layer on the last axis, then GELU if asked: (..., dim) to (..., out)."""
    if _is_plain(layer) and kernels.usable(x, layer.weight, layer.bias):
        return kernels.linear(x, layer.weight, layer.bias, activate=activate)
    if activate and _is_plain(layer):  # the bias joins GELU's kernel
        return _add_bias(x @ layer.weight.T, layer.bias, activate=True)
    return gelu(layer(x)) if activate else layer(x)


def conv_ffn(x: mx.array, conv: Layer, fc1: Layer, fc2: Layer) -> mx.array:
    """x + fc2(gelu(fc1(conv(x)))) for a depthwise `conv` of stride 1: (B, H, W, C)."""
    if not (_is_plain(fc1) and _is_plain(fc2)):  # quantized
        return x + fc2(linear(depthwise(x, conv), fc1, activate=True))
    weights = [a for layer in (conv, fc1, fc2) for a in (layer.weight, layer.bias)]
    if conv.weight.shape[1] in kernels.KERNEL_SIZES and kernels.usable(x, *weights):
        return kernels.conv_ffn(x, *weights)
    # The convolution's bias goes through fc1 as one row, not over the whole map.
    # Products are of matrices: [B * H * W, C]
    mixed = _depthwise(x, conv.weight, 1).reshape(-1, x.shape[-1])
    w1, w2 = fc1.weight.T, fc2.weight.T
    hidden = _add_bias(mixed @ w1, fc1.bias, conv.bias[None] @ w1, activate=True)
    return _add_bias((hidden @ w2).reshape(x.shape), fc2.bias, x)


def attention(qkv: mx.array, head_dim: int) -> mx.array:
    """Self-attention of every position to every other, no mask.

    Shapes:
        qkv: (B, L, 3 * heads * head_dim); returns (B, L, heads * head_dim)
    """
    if kernels.usable(qkv):
        return kernels.attention(qkv, head_dim)
    B, L, _ = qkv.shape
    # [3, B, heads, L, head_dim]
    q, k, v = qkv.reshape(B, L, 3, -1, head_dim).transpose(2, 0, 3, 1, 4)
    x = mx.fast.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)
    return x.transpose(0, 2, 1, 3).reshape(B, L, -1)


def gelu(x: mx.array) -> mx.array:
    """The exact GELU, x * Phi(x); any shape."""
    return kernels.gelu(x) if kernels.usable(x) else _add_bias(x, activate=True)


def _is_plain(layer: Layer) -> bool:
    return isinstance(layer, nn.Linear) and "bias" in layer


def _depthwise(x: mx.array, weight: mx.array, stride: int) -> mx.array:
    C, out_dim = x.shape[-1], weight.shape[0]

    def conv(weight: mx.array) -> mx.array:
        return mx.conv2d(
            x, weight, stride=stride, padding=weight.shape[1] // 2, groups=C
        )

    if out_dim == C:
        return conv(weight)
    # Metal's depthwise kernel makes one output per channel (conv.cpp,
    # `depthwise_conv_2D_gpu`), so each is a convolution of its own.
    each = [conv(weight[i :: out_dim // C]) for i in range(out_dim // C)]
    return mx.stack(each, axis=-1).flatten(-2)


def _biased(x: mx.array, *biases: mx.array) -> mx.array:
    return sum(biases, start=x)


def _biased_gelu(x: mx.array, *biases: mx.array) -> mx.array:
    x = _biased(x, *biases)
    return x * (0.5 * (1 + mx.erf(x * 0.5**0.5)))


_fused_biased = mx.compile(_biased, shapeless=True)
_fused_biased_gelu = mx.compile(_biased_gelu, shapeless=True)


def _add_bias(x: mx.array, *biases: mx.array, activate: bool = False) -> mx.array:
    # One kernel on a GPU. On a CPU compiling means g++, for seconds, and gains a
    # third: not worth it where `cpu/kernels.py` is not.
    if device.on_gpu():
        return (_fused_biased_gelu if activate else _fused_biased)(x, *biases)
    return (_biased_gelu if activate else _biased)(x, *biases)
