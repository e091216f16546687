"""Folds train-time branches into one convolution each, in float32.

A folded network computes the same function as the trained one with fewer operations.
Each function is one algebraic identity on weights in PyTorch's layout
(out, in / groups, kH, kW), and knows no tensor names.

Sources: RepVGG (arXiv 2101.03697), MobileOne (2206.04040), FastViT (2303.14189);
written beside apple/ml-fastvlm's `mobileclip/mci.py` and timm's `fastvit.py`.
"""

from typing import NamedTuple

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError

# PyTorch's default; every published FastViT has it.
BATCH_NORM_EPS = 1e-5


class Conv(NamedTuple):
    """A convolution: weight (out, in / groups, kH, kW) and bias (out,)."""

    weight: mx.array
    bias: mx.array


class BatchNorm(NamedTuple):
    """A BatchNorm's learnt affine and running statistics, each (channels,)."""

    weight: mx.array
    bias: mx.array
    running_mean: mx.array
    running_var: mx.array

    def affine(self) -> tuple[mx.array, mx.array]:
        """`scale` and `shift`, (channels,) float32: the norm is x * scale + shift."""
        weight, bias, mean, var = (a.astype(mx.float32) for a in self)
        scale = weight * mx.rsqrt(var + BATCH_NORM_EPS)
        return scale, bias - mean * scale


def fold_batch_norm(
    weight: mx.array, norm: BatchNorm, bias: mx.array | None = None
) -> Conv:
    """A convolution followed by BatchNorm, as one convolution."""
    scale, shift = norm.affine()
    if bias is not None:
        shift = shift + bias.astype(mx.float32) * scale
    return Conv(weight.astype(mx.float32) * scale[:, None, None, None], shift)


def identity_kernel(shape: tuple[int, ...]) -> mx.array:
    """The kernel of `shape` (out, in / groups, k, k) that computes the identity.

    Output channel `o` reads input `o % (in / groups)` of its group, which is `o`
    itself in the two cases that occur: depthwise (1 input) and dense (out == in).
    """
    out, inputs, height, width = shape
    kernel = mx.zeros(shape, dtype=mx.float32)
    channel = mx.arange(out)
    kernel[channel, channel % inputs, height // 2, width // 2] = 1.0
    return kernel


def pad_kernel(weight: mx.array, size: int) -> mx.array:
    """Pads an odd kernel with zeros to `size` x `size`, around its centre.

    Raises:
        CheckpointError: the kernel is larger, or cannot be centred.
    """
    small = weight.shape[-1]
    if small > size or (size - small) % 2:
        raise CheckpointError(
            f"a {small} x {small} kernel cannot be centred in one of {size} x {size};"
            " the checkpoint's branches do not belong together"
        )
    margin = (size - small) // 2
    return mx.pad(weight, [(0, 0), (0, 0), (margin, margin), (margin, margin)])


def add_branches(*branches: Conv) -> Conv:
    """The sum of parallel convolutions of one input, with the size of the largest."""
    size = max(branch.weight.shape[-1] for branch in branches)
    weight, bias = pad_kernel(branches[0].weight, size), branches[0].bias
    for branch in branches[1:]:
        weight = weight + pad_kernel(branch.weight, size)
        bias = bias + branch.bias
    return Conv(weight, bias)


def fold_skip(norm: BatchNorm, shape: tuple[int, ...]) -> Conv:
    """A BatchNorm on the input itself (`rbr_skip`), as a convolution of `shape`."""
    return fold_batch_norm(identity_kernel(shape), norm)


def fold_rep_mixer(mixer: Conv, norm: Conv, layer_scale: mx.array | None) -> Conv:
    """x + layer_scale * (mixer(x) - norm(x)); a layer scale of None is 1."""
    weight, bias = mixer.weight - norm.weight, mixer.bias - norm.bias
    if layer_scale is not None:
        weight, bias = fold_layer_scale(weight, bias, layer_scale)
    return Conv(identity_kernel(tuple(weight.shape)) + weight, bias)


def fold_residual(weight: mx.array, bias: mx.array) -> Conv:
    """x + conv(x): RepCPE's skip."""
    identity = identity_kernel(tuple(weight.shape))
    return Conv(identity + weight.astype(mx.float32), bias.astype(mx.float32))


def fold_layer_scale(weight: mx.array, bias: mx.array, scale: mx.array) -> Conv:
    """A layer followed by a scale per output (axis 0 of `weight`), as one layer."""
    scale = scale.astype(mx.float32).reshape(-1)
    rows = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Conv(weight.astype(mx.float32) * rows, bias.astype(mx.float32) * scale)


def fold_input_affine(
    weight: mx.array, bias: mx.array | None, scale: mx.array, shift: mx.array
) -> Conv:
    """A scale and shift per input followed by a linear layer, as one linear layer.

    Folds the affine of a LayerNorm, or a whole BatchNorm, into attention's qkv.

    Shapes:
        weight: (out, in); bias: (out,); scale, shift: (in,)
    """
    weight = weight.astype(mx.float32)
    moved = weight @ shift.astype(mx.float32)
    if bias is not None:
        moved = moved + bias.astype(mx.float32)
    return Conv(weight * scale.astype(mx.float32), moved)
