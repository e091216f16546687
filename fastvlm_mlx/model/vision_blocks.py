"""The blocks of FastViTHD's stages, in their inference form; see `vision.py`."""

from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.model import ops
from fastvlm_mlx.model.vision_config import VisionConfig

# From a map to the next: (B, H, W, C) to (B, H', W', C').
Part = Callable[[mx.array], mx.array]


class DepthwiseConv(nn.Module):
    """One kernel per channel, or several (`out_dim` a multiple of `dim`).

    Attributes:
        weight: (out_dim, kernel, kernel, 1).
        bias: (out_dim,).
        stride: pixels between two windows, in both directions.
    """

    def __init__(self, dim: int, out_dim: int, kernel: int, stride: int = 1):
        super().__init__()
        self.weight = mx.zeros((out_dim, kernel, kernel, 1))
        self.bias = mx.zeros((out_dim,))
        self.stride = stride

    def __call__(self, x: mx.array, *, activate: bool = False) -> mx.array:
        return ops.depthwise(x, self, stride=self.stride, activate=activate)


class SqueezeExcite(nn.Module):
    """Weighs every channel by a gate computed from the whole map."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        # In float32: a sum of float16 overflows, one of bfloat16 loses half a percent.
        # [B, 1, 1, C]
        gate = x.astype(mx.float32).mean(axis=(1, 2), keepdims=True).astype(x.dtype)
        # Not `nn.relu`: MLX compiles it, on a CPU with a second of g++.
        gate = mx.sigmoid(self.fc2(mx.maximum(self.fc1(gate), 0)))
        return ops.scale_channels(x, gate)


class ConvFFN(nn.Module):
    """A 7x7 depthwise convolution, then an MLP on every position, and the skip."""

    def __init__(self, dim: int, hidden_dim: int, kernel: int):
        super().__init__()
        self.conv = DepthwiseConv(dim, dim, kernel)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.conv_ffn(x, self.conv, self.fc1, self.fc2)


class RepMixerBlock(nn.Module):
    """Depthwise token mixing, then a convolutional FFN (FastViT, fig. 2)."""

    def __init__(self, dim: int, hidden_dim: int, config: VisionConfig):
        super().__init__()
        # Folded: x + scale * (mixer(x) - norm(x)) is one depthwise kernel.
        self.token_mixer = DepthwiseConv(dim, dim, config.repmixer_kernel)
        self.mlp = ConvFFN(dim, hidden_dim, config.ffn_kernel)

    def parts(self) -> Iterator[Part]:
        """What a map goes through, in order."""
        yield self.token_mixer
        yield self.mlp


class Attention(nn.Module):
    """Self-attention of every position to every other.

    Attributes:
        head_dim: channels of one head; `dim` is a multiple of it.
    """

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.head_dim = head_dim

    def __call__(self, x: mx.array) -> mx.array:
        B, H, W, C = x.shape
        # [B, H * W, 3 * C]
        qkv = ops.linear(x.flatten(1, 2), self.qkv)
        stored = self.qkv.weight.dtype == mx.bfloat16
        x = ops.attention(qkv, self.head_dim, rounded=stored)
        return ops.linear(x, self.proj).reshape(B, H, W, C)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention, then a convolutional FFN.

    Attributes:
        layer_norm: whether the input is normalized (LayerNorm without affine).
        eps: LayerNorm's epsilon.
    """

    def __init__(self, dim: int, hidden_dim: int, config: VisionConfig):
        super().__init__()
        self.token_mixer = Attention(dim, config.head_dim)
        self.mlp = ConvFFN(dim, hidden_dim, config.ffn_kernel)
        # MobileCLIP's smaller encoders normalize by BatchNorm: folded into qkv.
        self.layer_norm = config.layer_norm
        self.eps = config.layer_norm_eps

    def parts(self) -> Iterator[Part]:
        """What a map goes through, in order."""
        yield self._mix
        yield self.mlp

    def _mix(self, x: mx.array) -> mx.array:
        y = mx.fast.layer_norm(x, None, None, self.eps) if self.layer_norm else x
        return x + self.token_mixer(y)
