"""DoRA for answering: a layer that does what mlx-lm's does, without its norms."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn


class DoRAInference(nn.Module):
    """A trained DoRA layer with the norms of its rows computed once.

    mlx-lm's layer, made for training, unpacks its weight and takes the norms for every
    token. Here they are one factor for each output, `gain` (out,).
    """

    def __init__(self, layer: Any, dtype: mx.Dtype):
        super().__init__()
        self.linear = layer.linear
        self.lora_a = layer.lora_a.astype(dtype)
        self.lora_b = (layer.scale * layer.lora_b).astype(dtype)
        weight = adapted(
            layer._dequantized_weight(), layer.lora_a, layer.lora_b, layer.scale
        )
        self.gain = (layer.m / mx.linalg.norm(weight, axis=1)).astype(dtype)
        mx.eval(self.gain, self.lora_b)  # or the graph keeps `weight`
        self.freeze()
        self.eval()

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) to (..., out)."""
        y = self.linear(x) + (x @ self.lora_a) @ self.lora_b
        if "bias" not in self.linear:
            return self.gain * y
        return self.gain * (y - self.linear.bias) + self.linear.bias


def adapted(weight: mx.array, a: mx.array, b: mx.array, scale: float) -> mx.array:
    """weight + scale * (a b)^T in float32: (out, in), (in, rank) and (rank, out)."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    return weight.astype(mx.float32) + scale * (b.T @ a.T)
