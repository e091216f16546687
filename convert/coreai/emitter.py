"""Emits the operations of `encoder_walk` with Core AI's public authoring interface.

Only names that `coreai.authoring` exports are used, but for 4-bit weights. Its conv2d
has neither padding nor bias, and LayerNorm is written out: the fused one is not public.
"""

from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreai.unpublished import int4_constant
from fastvlm_mlx.convert.weight_compression import BLOCK, cast_weights, quantize
from fastvlm_mlx.coreai_runtime import import_coreai

# float16's smallest positive number: a smaller epsilon would be zero.
MIN_EPSILON = 6e-8


class CoreAIEmitter:
    """The operations of `encoder_walk.Emitter`; values are Core AI's `Value`.

    Attributes:
        warnings: one line for each weight that overflows or vanishes.
    """

    def __init__(self, options: CoreAIOptions):
        self.ops: Any = import_coreai()
        self.options = options
        self.dtype = np.dtype(options.precision)
        self.warnings: list[str] = []

    def channels(self, x: Any) -> int:
        return x.type.shape[1]

    def conv(
        self,
        x: Any,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        stride: int,
        pad: int,
        name: str,
    ) -> Any:
        groups = self.channels(x) // weight.shape[1]
        if pad:
            # Before and after each axis, the batch first.
            sides = _unsigned([0, 0, 0, 0, *[pad] * 4])
            x = self.ops.pad(x, sides, self.dtype.type(0))
        kernel = self._plain(weight, f"{name}_weight")
        x = self._conv2d(x, kernel, stride, groups)
        return x if bias is None else self._add_bias(x, bias, name)

    def pointwise(self, x: Any, weight: np.ndarray, bias: np.ndarray, name: str) -> Any:
        kernel = self._compressed(weight[:, :, None, None], f"{name}_weight")
        return self._add_bias(self._conv2d(x, kernel, 1, 1), bias, name)

    def gelu(self, x: Any) -> Any:
        return self.ops.gelu(x, approximate="none")

    def relu(self, x: Any) -> Any:
        return self.ops.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return self.ops.sigmoid(x)

    def add(self, x: Any, y: Any) -> Any:
        return self.ops.broadcasting_add(x, y)

    def scale_channels(self, x: Any, gate: Any) -> Any:
        return self.ops.broadcasting_mul(x, gate)

    def spatial_mean(self, x: Any) -> Any:
        return self.ops.reduce_mean(x, np.array([2, 3], np.int32))

    def average_pool(self, x: Any, side: int) -> Any:
        # A convolution: `sumpool2d` of this version takes its dilation from nobody.
        channels = self.channels(x)
        kernel = np.full((channels, 1, side, side), 1 / side**2, self.dtype)
        return self._conv2d(x, kernel, side, channels)

    def layer_norm(self, x: Any, eps: float) -> Any:
        """As LN(x, eps) = LN(x / k, eps / k^2): float16 cannot hold large squares."""
        ops, half = self.ops, self.options.precision != "float32"
        k = self.options.norm_prescale if half else 1
        if k != 1:
            x = ops.broadcasting_mul(x, self.dtype.type(1 / k))
        eps = max(eps / k**2, MIN_EPSILON) if half else eps
        axis = np.array([1], np.int32)
        x = ops.broadcasting_sub(x, ops.reduce_mean(x, axis))
        variance = ops.reduce_mean(ops.broadcasting_mul(x, x), axis)
        scale = ops.rsqrt(ops.broadcasting_add(variance, self.dtype.type(eps)))
        return ops.broadcasting_mul(x, scale)

    def attend(self, qkv: Any, head_dim: int) -> Any:
        ops = self.ops
        _, dims, height, width = qkv.type.shape
        dim, tokens = dims // 3, height * width
        # With a batch of one a reshape separates the heads: [3, heads, head_dim, N]
        shape = _signed([3, dim // head_dim, head_dim, tokens])
        q, k, v = ops.split(ops.reshape(qkv, shape), _unsigned([1, 1, 1]), np.int32(0))
        # [1, heads, N keys, N queries]
        logits = ops.batch_matmul(ops.transpose(k, _unsigned([0, 1, 3, 2])), q)
        weights = ops.softmax(logits, np.int32(2))
        # [1, heads, head_dim, N queries]
        x = ops.batch_matmul(v, weights)
        return ops.reshape(x, _signed([1, dim, height, width]))

    def concat(self, maps: list[Any]) -> Any:
        return self.ops.concat(np.int32(1), maps)

    def _conv2d(self, x: Any, kernel: Any, stride: int, groups: int) -> Any:
        steps, dense = _unsigned([stride, stride]), _unsigned([1, 1])
        return self.ops.conv2d(x, kernel, steps, dense, np.uint32(groups))

    def _add_bias(self, x: Any, bias: np.ndarray, name: str) -> Any:
        plain = self._plain(bias[None, :, None, None], f"{name}_bias")
        return self.ops.broadcasting_add(x, plain)

    def _plain(self, array: np.ndarray, name: str) -> np.ndarray:
        return cast_weights(array, self.dtype, name, self.warnings)

    def _compressed(self, array: np.ndarray, name: str) -> Any:
        """The kernel of a 1x1 convolution, (out, in, 1, 1), with `compression`."""
        compression = self.options.compression
        cast = self._plain(array, name)
        if compression is None:
            return cast
        blocks = compression != "int8" and array.shape[1] % BLOCK == 0
        # Without blocks 4 bits are too few for a whole row of weights.
        bits = 4 if compression == "int4-block" and blocks else 8
        data, scale = quantize(cast, BLOCK if blocks else None, bits)
        scale = scale.astype(self.dtype)
        zeros = np.zeros(scale.shape, np.int8)
        if bits == 4:
            data, zeros = int4_constant(data), int4_constant(zeros)
        return self.ops.blockwise_shift_scale(
            data, scale, zeros, np.zeros(scale.shape, self.dtype)
        )


def _unsigned(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint32)


def _signed(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)
