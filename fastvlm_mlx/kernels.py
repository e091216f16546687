"""The few operations whose best form depends on the device.

On a GPU these are MLX's own kernels. This is the only file that asks which device
it runs on for speed's sake; the model files call these functions and stay plain.
"""

from functools import partial

import mlx.core as mx
import mlx.nn as nn


def depthwise_conv2d(x: mx.array, weight: mx.array, *, stride: int = 1) -> mx.array:
    """Convolves every channel with its own kernel(s), zero-padded to keep the grid.

    Shapes:
        x: (B, H, W, C); weight: (C * multiplier, K, K, 1)
        returns (B, H / stride, W / stride, C * multiplier)
    """
    return mx.conv2d(
        x, weight, stride=stride, padding=weight.shape[1] // 2, groups=x.shape[-1]
    )


@partial(mx.compile, shapeless=True)
def gelu(x: mx.array) -> mx.array:
    """The exact GELU, x * Phi(x); any shape."""
    return nn.gelu(x)
