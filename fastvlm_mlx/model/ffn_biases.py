"""Folds the bias of each FFN's depthwise convolution into its first linear layer.

The convolution feeds `fc1` and nothing else, so its bias can be added behind `fc1` as
well: `fc1(y + b) = fc1(y) + weight @ b`. That is exact, and one pass over the map less.
"""

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.model.ops import bias_through
from fastvlm_mlx.model.vision import FastViTHD
from fastvlm_mlx.model.vision_blocks import ConvFFN


def fold_ffn_biases(tower: FastViTHD) -> None:
    """Changes `tower` in place: each ConvFFN's `conv` has no `bias` afterwards.

    FFNs with a quantized `fc1` stay as they are.
    """
    for stage in tower.stages:
        for block in stage.blocks:
            _fold(block.mlp)


def _fold(ffn: ConvFFN) -> None:
    if not isinstance(ffn.fc1, nn.Linear) or "bias" not in ffn.conv:
        return
    dtype = ffn.fc1.bias.dtype
    parts = (ffn.conv.bias, ffn.fc1.weight, ffn.fc1.bias)
    folded = bias_through(*(part.astype(mx.float32) for part in parts))
    ffn.fc1.bias = folded.astype(dtype)
    ffn.conv.pop("bias")
