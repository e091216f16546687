"""Builds the encoder's MIL program from the loaded MLX modules.

The program follows the rules of Apple's ml-ane-transformers and coreai-models for the
Neural Engine (docs/coreml.md): channels first, a 1x1 convolution for every linear
layer, static shapes, float16 throughout, and one transpose, of the tokens at the end.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from fastvlm_mlx.convert.coreml.mil_attention import attend
from fastvlm_mlx.convert.coreml.mil_weights import Weights
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.model.vision import (
    AttentionBlock,
    ConvFFN,
    DepthwiseConv,
    Downsample,
    FastViTHD,
    Pool,
    SqueezeExcite,
    Stage,
)
from fastvlm_mlx.model.vlm import Projector

# float16's smallest positive number: a smaller epsilon would be zero.
MIN_EPSILON = 6e-8

# The side of a pooling window at most: wide windows are reported to leave the Neural
# Engine (above 13).
MAX_POOL = 4

IMAGES, FEATURES, EMBEDDINGS = "images", "image_features", "image_embeddings"


def to_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32))


def weight_matrix(layer: nn.Module) -> np.ndarray:
    """A linear layer's weight (out, in) in float32, dequantized if need be."""
    if isinstance(layer, nn.QuantizedLinear):
        assert layer.biases is not None  # affine quantization, the only mode we load
        parts = (layer.weight, layer.scales, layer.biases)
        return to_numpy(mx.dequantize(*parts, layer.group_size, layer.bits))
    return to_numpy(layer["weight"])


class EncoderBuilder:
    """Emits the encoder as one MIL function; `x` is a MIL value (1, C, H, W).

    Args:
        encoder: its weights become constants.
        projector: also emitted, if given.
        options: attention, precision, input type and LayerNorm prescale.
        weights: casts, compresses and stores the constants.
    """

    def __init__(
        self,
        encoder: FastViTHD,
        projector: Projector | None,
        options: CoreMLOptions,
        weights: Weights,
    ):
        self.encoder = encoder
        self.projector = projector
        self.options = options
        self.weights = weights
        self.mb: Any = weights.builder

    def program(self, resolution: int, target: Any) -> Any:
        """A pymil program: (1, 3, R, R) float32 -> (1, tokens, width) float32.

        Args:
            resolution: R, pixels a side.
            target: coremltools' minimum deployment target.
        """
        from coremltools.converters.mil.mil import types

        specs = [
            self.mb.TensorSpec(shape=(1, 3, resolution, resolution), dtype=types.fp32)
        ]

        def encode(images: Any) -> Any:  # the input is named after the argument
            return self._emit(images)

        return self.mb.program(input_specs=specs, opset_version=target)(encode)

    def _emit(self, images: Any) -> Any:
        x = images
        if self.options.precision != "float32":
            x = self.mb.cast(x=x, dtype="fp16", name="images_fp16")
        if self.options.image_input:
            # After the cast: 1/255 is off by 1.5e-5 in float16, and float32
            # arithmetic would leave the Neural Engine.
            x = self.mb.mul(x=x, y=self.weights.scalar(1 / 255), name="images_scaled")
        x = self._encoder(x)
        name = FEATURES
        if self.projector is not None:
            name = EMBEDDINGS
            for index, layer in enumerate(self.projector.layers):
                x = self.mb.gelu(x=x, mode="EXACT") if index else x
                x = self._linear(x, layer, f"projector_{index}")
        # [1, C, H, W] -> [1, H * W, C]
        batch, dim, height, width = x.shape
        x = self.mb.reshape(x=x, shape=(batch, dim, height * width))
        final = self.options.precision == "float32"
        x = self.mb.transpose(x=x, perm=(0, 2, 1), **({"name": name} if final else {}))
        return x if final else self.mb.cast(x=x, dtype="fp32", name=name)

    def _encoder(self, x: Any) -> Any:
        encoder = self.encoder
        x = self._gelu(self._dense(x, encoder.stem.conv, "stem_conv"))
        x = self._gelu(self._depthwise(x, encoder.stem.depthwise, "stem_depthwise"))
        x = self._gelu(self._linear(x, encoder.stem.pointwise, "stem_pointwise"))
        maps = {}
        for index, stage in enumerate(encoder.stages):
            x = maps[f"stage{index}"] = self._stage(x, stage, f"stages_{index}")
        final = encoder.final_conv
        x = self._depthwise(x, final.depthwise, "final_conv_depthwise")
        x = self._gelu(self._squeeze_excite(x, final.se, "final_conv_se"))
        pooled = [
            self._pool(maps[stage], pool, f"multi_scale_{stage}")
            for stage, pool in encoder.multi_scale.items()
        ]
        return self.mb.concat(values=[x, *pooled], axis=1) if pooled else x

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
            x = self.mb.add(x=x, y=self._ffn(x, block.mlp, f"{path}_mlp"))
        return x

    def _downsample(self, x: Any, layer: Downsample, name: str) -> Any:
        x = self._depthwise(x, layer.depthwise, f"{name}_depthwise")
        x = self._squeeze_excite(x, layer.se, f"{name}_se") if "se" in layer else x
        return self._gelu(
            self._linear(self._gelu(x), layer.pointwise, f"{name}_pointwise")
        )

    def _attention(self, x: Any, block: AttentionBlock, name: str) -> Any:
        y = self._layer_norm(x, block.eps) if block.layer_norm else x
        mixer = block.token_mixer
        head_dim = mixer.head_dim
        dim = x.shape[1]
        weight, bias = weight_matrix(mixer.qkv), to_numpy(mixer.qkv.bias)
        # The logits' scale is folded into the rows of the queries.
        weight[:dim] *= head_dim**-0.5
        bias[:dim] *= head_dim**-0.5
        qkv = self._pointwise(y, weight, bias, f"{name}_qkv")
        mixed = attend(self.mb, qkv, head_dim, self.options)
        return self.mb.add(x=x, y=self._linear(mixed, mixer.proj, f"{name}_proj"))

    def _layer_norm(self, x: Any, eps: float) -> Any:
        """LayerNorm over channels, as LN(x, eps) = LN(x / k, eps / k^2).

        In float16 the sum of squares of a residual stream of standard deviation 100
        overflows, and the branch silently becomes zero. k is a power of two, so the
        division does not round.
        """
        k = self.options.norm_prescale if self.options.precision != "float32" else 1
        if k != 1:
            x = self.mb.mul(x=x, y=self.weights.scalar(1 / k))
        eps = eps / k**2
        epsilon = eps if self.options.precision == "float32" else max(eps, MIN_EPSILON)
        return self.mb.layer_norm(x=x, axes=[1], epsilon=self.weights.scalar(epsilon))

    def _ffn(self, x: Any, ffn: ConvFFN, name: str) -> Any:
        x = self._depthwise(x, ffn.conv, f"{name}_conv")
        x = self._gelu(self._linear(x, ffn.fc1, f"{name}_fc1"))
        return self._linear(x, ffn.fc2, f"{name}_fc2")

    def _squeeze_excite(self, x: Any, layer: SqueezeExcite, name: str) -> Any:
        gate = self.mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True)
        gate = self.mb.relu(x=self._linear(gate, layer.fc1, f"{name}_fc1"))
        gate = self.mb.sigmoid(x=self._linear(gate, layer.fc2, f"{name}_fc2"))
        return self.mb.mul(x=x, y=gate)

    def _pool(self, x: Any, pool: Pool, name: str) -> Any:
        ratio = pool.ratio
        if "weight" in pool:
            # [r, r, C] -> [C, 1, r, r]
            weight = to_numpy(pool.weight).transpose(2, 0, 1)[:, None]
            return self._conv(x, weight, to_numpy(pool.bias), ratio, 0, name)
        while ratio > 1:  # a mean of means equals the mean of the whole window
            step = min(ratio, MAX_POOL)
            x = self.mb.avg_pool(
                x=x, kernel_sizes=[step] * 2, strides=[step] * 2, pad_type="valid"
            )
            ratio //= step
        return x

    def _gelu(self, x: Any) -> Any:
        # TANH_APPROXIMATION gives no gain; SIGMOID_APPROXIMATION changes the features
        # by 20 %.
        return self.mb.gelu(x=x, mode="EXACT")

    def _depthwise(self, x: Any, layer: DepthwiseConv, name: str) -> Any:
        # [out, K, K, 1] -> [out, 1, K, K]
        weight = to_numpy(layer.weight).transpose(0, 3, 1, 2)
        pad = weight.shape[-1] // 2
        # A model that was loaded for a GPU has none in its FFNs: `fold_ffn_biases`.
        bias = to_numpy(layer.bias) if "bias" in layer else None
        return self._conv(x, weight, bias, layer.stride, pad, name)

    def _dense(self, x: Any, layer: nn.Conv2d, name: str) -> Any:
        weight = to_numpy(layer.weight).transpose(0, 3, 1, 2)
        stride, pad = layer.stride[0], layer.padding[0]
        return self._conv(x, weight, to_numpy(layer.bias), stride, pad, name)

    def _conv(
        self,
        x: Any,
        weight: np.ndarray,
        bias: np.ndarray | None,
        stride: int,
        pad: int,
        name: str,
    ) -> Any:
        plain = self.weights.plain
        return self.mb.conv(
            x=x,
            weight=plain(weight, f"{name}_weight"),
            bias=None if bias is None else plain(bias, f"{name}_bias"),
            strides=[stride] * 2,
            pad_type="custom",
            pad=[pad] * 4,
            groups=x.shape[1] // weight.shape[1],
            name=name,
        )

    def _linear(self, x: Any, layer: nn.Linear, name: str) -> Any:
        return self._pointwise(x, weight_matrix(layer), to_numpy(layer.bias), name)

    def _pointwise(
        self, x: Any, weight: np.ndarray, bias: np.ndarray, name: str
    ) -> Any:
        return self.mb.conv(
            x=x,
            weight=self.weights.pointwise(weight[:, :, None, None], f"{name}_weight"),
            bias=self.weights.plain(bias, f"{name}_bias"),
            name=name,
        )
