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

# Head sizes of `steel_attention` in mlx.metallib, MLX 0.32.4, of macOS 15 and 26.
FUSED_HEADS = (64, 72, 80, 96, 128, 192, 256)


class Layer(Protocol):
    """What holds a weight and a bias: a depthwise convolution, a linear layer."""

    weight: mx.array
    bias: mx.array

    def __contains__(self, key: str, /) -> bool: ...

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
    y = _add_bias(_depthwise(x, w, stride), b)
    return gelu(y) if activate else y


def stem(
    x: mx.array, conv: nn.Conv2d, depthwise_conv: Layer, pointwise: Layer
) -> mx.array:
    """Three convolutions, each with GELU: of all channels and of each alone, both 3 x 3
    and of stride 2, and a linear layer.

    Shapes:
        x: (B, H, W, 3), sides multiples of 4; returns (B, H / 4, W / 4, C)
    """
    weights = [conv.weight, conv.bias, depthwise_conv.weight, depthwise_conv.bias]
    # With float32 weights the sums keep their order: that form never changes.
    if pointwise.weight.dtype == mx.bfloat16 and kernels.usable(x, *weights):
        y = kernels.stem(x, *weights)
    else:
        y = _add_bias(mx.conv2d(x, conv.weight, conv.stride, conv.padding), conv.bias)
        y = depthwise(gelu(y), depthwise_conv, stride=2, activate=True)
    return linear(y, pointwise, activate=True)


def linear(x: mx.array, layer: Layer, *, activate: bool = False) -> mx.array:
    """A linear layer on the last axis, then GELU if asked: (..., dim) to (..., out)."""
    fits = _is_plain(layer) and kernels.take_weights(layer.weight)
    if fits and kernels.usable(x, layer.bias):
        return kernels.linear(x, layer.weight, layer.bias, activate=activate)
    return gelu(layer(x)) if activate else layer(x)


def conv_ffn(x: mx.array, conv: Layer, fc1: Layer, fc2: Layer) -> mx.array:
    """x + fc2(gelu(fc1(conv(x)))) for a depthwise `conv` of stride 1: (B, H, W, C).

    `conv` has no bias where `fold_ffn_biases` put it into `fc1`.
    """
    if not (_is_plain(fc1) and _is_plain(fc2)):  # quantized
        return x + fc2(linear(depthwise(x, conv), fc1, activate=True))
    w1, b1, w2, b2 = fc1.weight, fc1.bias, fc2.weight, fc2.bias
    if "bias" in conv:
        fits = conv.weight.shape[1] in kernels.KERNEL_SIZES
        fits = fits and kernels.take_weights(w1, w2)
        if fits and kernels.usable(x, conv.weight, conv.bias, b1, b2):
            return kernels.conv_ffn(x, conv.weight, conv.bias, w1, b1, w2, b2)
        b1 = bias_through(conv.bias, w1, b1)
    # Products are of matrices, [B * H * W, C], with the bias in their epilogue: what
    # follows has no broadcast input, so Metal computes several elements a thread.
    mixed = _depthwise(x, conv.weight, 1).reshape(-1, x.shape[-1])
    hidden = gelu(mx.addmm(b1, mixed, w1.T))
    return x + mx.addmm(b2, hidden, w2.T).reshape(x.shape)


def bias_through(conv_bias: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """The bias of a linear layer that also takes in the bias of what feeds it.

    Shapes:
        conv_bias: (dim,); weight: (out, dim); bias: (out,); returns (out,)
    """
    return mx.addmm(bias, conv_bias[None], weight.T)[0]


def attention(qkv: mx.array, head_dim: int, *, rounded: bool = False) -> mx.array:
    """Self-attention of every position to every other, no mask.

    Args:
        rounded: on a CPU that multiplies bfloat16 numbers, its products are of these.
    Shapes:
        qkv: (B, L, 3 * heads * head_dim); returns (B, L, heads * head_dim)
    """
    if kernels.usable(qkv):
        return kernels.attention(qkv, head_dim, rounded=rounded)
    B, L, _ = qkv.shape
    # [B, L, 3, heads, width]
    heads = qkv.reshape(B, L, 3, -1, head_dim)
    if device.on_gpu() and (zeros := _fused_head(head_dim) - head_dim):
        # Fused, so without L x L scores in memory: 13 GB in float16 at 4096 px.
        heads = mx.pad(heads, [(0, 0)] * 4 + [(0, zeros)])
    # [3, B, heads, L, width]
    q, k, v = heads.transpose(2, 0, 3, 1, 4)
    x = mx.fast.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)
    return x[..., :head_dim].transpose(0, 2, 1, 3).reshape(B, L, -1)


def scale_channels(x: mx.array, gate: mx.array) -> mx.array:
    """x * gate: (B, H, W, C) and (B, 1, 1, C)."""
    if device.on_gpu():  # without a broadcast input, as in `conv_ffn`
        gate = mx.tile(gate, (1, *x.shape[1:3], 1))
    return x * gate


def gelu(x: mx.array) -> mx.array:
    """The exact GELU, x * Phi(x); any shape."""
    if kernels.usable(x):
        return kernels.gelu(x)
    # One kernel on a GPU. On a CPU compiling means g++, for seconds, and gains a
    # third: not worth it where `cpu/kernels.py` is not.
    return (_fused_gelu if device.on_gpu() else _gelu)(x)


def _gelu(x: mx.array) -> mx.array:
    # In float32: 1 + erf(x) of x < -1 cancels, to noise in 16 bits.
    y = x.astype(mx.float32)
    return (y * (0.5 * (1 + mx.erf(y * 0.5**0.5)))).astype(x.dtype)


_fused_gelu = mx.compile(_gelu, shapeless=True)


def _fused_head(head_dim: int) -> int:
    """The least size, from `head_dim` on, that Metal has a fused attention for."""
    return next((size for size in FUSED_HEADS if size >= head_dim), head_dim)


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


def _add_bias(x: mx.array, bias: mx.array) -> mx.array:
    if not device.on_gpu():
        return x + bias
    # A product of one column with one row, whose epilogue adds x: unlike `x + bias`
    # it has no broadcast input, which would make a kernel of one element a thread.
    rows = x.reshape(-1, x.shape[-1])
    ones = mx.ones((len(rows), 1), dtype=x.dtype)
    return mx.addmm(rows, ones, bias[None]).reshape(x.shape)
