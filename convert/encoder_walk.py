"""Walks the loaded MLX encoder once, for any program format that it is exported to.

The walk says which operations the encoder is made of, in their order and with the
names of their weights; an emitter writes each in its own format: `coreml.mil_encoder`
for Core ML, `coreai.emitter` for Core AI. Both get channels-first maps (1, C, H, W),
a 1x1 convolution for every linear layer and static shapes.
"""

from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from fastvlm_mlx.model.vision import Downsample, FastViTHD, Pool, Stage
from fastvlm_mlx.model.vision_blocks import (
    AttentionBlock,
    ConvFFN,
    DepthwiseConv,
    SqueezeExcite,
)
from fastvlm_mlx.model.vlm import Projector

# The names of a program's input and output, in every format.
IMAGES, FEATURES, EMBEDDINGS = "images", "image_features", "image_embeddings"

# The side of a pooling window at most: wide windows are reported to leave the Neural
# Engine (above 13).
MAX_POOL = 4


def to_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def weight_matrix(layer: nn.Module) -> np.ndarray:
    """A linear layer's weight (out, in) in float32, dequantized if need be."""
    if isinstance(layer, nn.QuantizedLinear):
        assert layer.biases is not None  # affine quantization, the only mode we load
        parts = (layer.weight, layer.scales, layer.biases)
        return to_numpy(mx.dequantize(*parts, layer.group_size, layer.bits))
    return to_numpy(layer["weight"])


class Emitter(Protocol):
    """Writes operations on maps (1, C, H, W) in one format; weights are float32.

    `name` starts the names of an operation's weights, which must differ.
    """

    def channels(self, x: Any) -> int: ...

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
        """`weight`: (out, in / groups, K, K); `pad` zeros on every side."""
        ...

    def pointwise(self, x: Any, weight: np.ndarray, bias: np.ndarray, name: str) -> Any:
        """A 1x1 convolution; `weight`: (out, in)."""
        ...

    def gelu(self, x: Any) -> Any:
        """The exact one: the tanh approximation gives no gain, and that by a sigmoid
        changes the features by 20 %."""
        ...

    def relu(self, x: Any) -> Any: ...

    def sigmoid(self, x: Any) -> Any: ...

    def add(self, x: Any, y: Any) -> Any: ...

    def scale_channels(self, x: Any, gate: Any) -> Any:
        """`gate`: (1, C, 1, 1)."""
        ...

    def spatial_mean(self, x: Any) -> Any:
        """(1, C, H, W) to (1, C, 1, 1)."""
        ...

    def average_pool(self, x: Any, side: int) -> Any:
        """The means of windows of `side` x `side` that do not overlap."""
        ...

    def layer_norm(self, x: Any, eps: float) -> Any:
        """Over the channels, without affine."""
        ...

    def attend(self, qkv: Any, head_dim: int) -> Any:
        """(1, 3 * C, H, W), the queries scaled already, to (1, C, H, W)."""
        ...

    def concat(self, maps: list[Any]) -> Any:
        """Along the channels."""
        ...


class EncoderWalk:
    """Emits an encoder, and a projector, operation by operation.

    Args:
        emit: writes the operations.
    """

    def __init__(self, emit: Emitter):
        self.emit = emit

    def encoder(self, encoder: FastViTHD, x: Any) -> Any:
        """(1, 3, R, R), floats in 0..1, to the features (1, C, R / 64, R / 64)."""
        gelu = self.emit.gelu
        x = gelu(self._dense(x, encoder.stem.conv, "stem_conv"))
        x = gelu(self._depthwise(x, encoder.stem.depthwise, "stem_depthwise"))
        x = gelu(self._linear(x, encoder.stem.pointwise, "stem_pointwise"))
        maps = {}
        for index, stage in enumerate(encoder.stages):
            x = maps[f"stage{index}"] = self._stage(x, stage, f"stages_{index}")
        final = encoder.final_conv
        x = self._depthwise(x, final.depthwise, "final_conv_depthwise")
        x = gelu(self._squeeze_excite(x, final.se, "final_conv_se"))
        pooled = [
            self._pool(maps[stage], pool, f"multi_scale_{stage}")
            for stage, pool in encoder.multi_scale.items()
        ]
        return self.emit.concat([x, *pooled]) if pooled else x

    def projector(self, projector: Projector, x: Any) -> Any:
        """The features to the language model's embeddings, (1, hidden, H, W)."""
        for index, layer in enumerate(projector.layers):
            x = self.emit.gelu(x) if index else x
            x = self._linear(x, layer, f"projector_{index}")
        return x

    def _stage(self, x: Any, stage: Stage, name: str) -> Any:
        if "downsample" in stage:
            x = self._downsample(x, stage.downsample, f"{name}_downsample")
        if "pos_emb" in stage:
            x = self._depthwise(x, stage.pos_emb, f"{name}_pos_emb")
        for index, block in enumerate(stage.blocks):
            path = f"{name}_blocks_{index}"
            if isinstance(block, AttentionBlock):
                x = self._attention(x, block, path)
            else:
                x = self._depthwise(x, block.token_mixer, f"{path}_token_mixer")
            x = self.emit.add(x, self._ffn(x, block.mlp, f"{path}_mlp"))
        return x

    def _downsample(self, x: Any, layer: Downsample, name: str) -> Any:
        x = self._depthwise(x, layer.depthwise, f"{name}_depthwise")
        x = self._squeeze_excite(x, layer.se, f"{name}_se") if "se" in layer else x
        x = self._linear(self.emit.gelu(x), layer.pointwise, f"{name}_pointwise")
        return self.emit.gelu(x)

    def _attention(self, x: Any, block: AttentionBlock, name: str) -> Any:
        y = self.emit.layer_norm(x, block.eps) if block.layer_norm else x
        mixer = block.token_mixer
        head_dim = mixer.head_dim
        dim = self.emit.channels(x)
        weight, bias = weight_matrix(mixer.qkv), to_numpy(mixer.qkv.bias)
        # The logits' scale is folded into the rows of the queries.
        weight[:dim] *= head_dim**-0.5
        bias[:dim] *= head_dim**-0.5
        qkv = self.emit.pointwise(y, weight, bias, f"{name}_qkv")
        mixed = self.emit.attend(qkv, head_dim)
        return self.emit.add(x, self._linear(mixed, mixer.proj, f"{name}_proj"))

    def _ffn(self, x: Any, ffn: ConvFFN, name: str) -> Any:
        x = self._depthwise(x, ffn.conv, f"{name}_conv")
        x = self.emit.gelu(self._linear(x, ffn.fc1, f"{name}_fc1"))
        return self._linear(x, ffn.fc2, f"{name}_fc2")

    def _squeeze_excite(self, x: Any, layer: SqueezeExcite, name: str) -> Any:
        gate = self.emit.spatial_mean(x)
        gate = self.emit.relu(self._linear(gate, layer.fc1, f"{name}_fc1"))
        gate = self.emit.sigmoid(self._linear(gate, layer.fc2, f"{name}_fc2"))
        return self.emit.scale_channels(x, gate)

    def _pool(self, x: Any, pool: Pool, name: str) -> Any:
        ratio = pool.ratio
        if "weight" in pool:
            # [r, r, C] -> [C, 1, r, r]
            weight = to_numpy(pool.weight).transpose(2, 0, 1)[:, None]
            bias = to_numpy(pool.bias)
            return self.emit.conv(x, weight, bias, stride=ratio, pad=0, name=name)
        while ratio > 1:  # a mean of means equals the mean of the whole window
            step = min(ratio, MAX_POOL)
            x = self.emit.average_pool(x, step)
            ratio //= step
        return x

    def _depthwise(self, x: Any, layer: DepthwiseConv, name: str) -> Any:
        # [out, K, K, 1] -> [out, 1, K, K]
        weight = to_numpy(layer.weight).transpose(0, 3, 1, 2)
        pad = weight.shape[-1] // 2
        # A model that was loaded for a GPU has none in its FFNs: `fold_ffn_biases`.
        bias = to_numpy(layer.bias) if "bias" in layer else None
        return self.emit.conv(x, weight, bias, stride=layer.stride, pad=pad, name=name)

    def _dense(self, x: Any, layer: nn.Conv2d, name: str) -> Any:
        weight = to_numpy(layer.weight).transpose(0, 3, 1, 2)
        stride, pad = layer.stride[0], layer.padding[0]
        bias = to_numpy(layer.bias)
        return self.emit.conv(x, weight, bias, stride=stride, pad=pad, name=name)

    def _linear(self, x: Any, layer: nn.Linear, name: str) -> Any:
        return self.emit.pointwise(x, weight_matrix(layer), to_numpy(layer.bias), name)
