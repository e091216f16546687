"""Emits the encoder's MIL program: the operations of `encoder_walk` for Core ML.

The program follows the rules of Apple's ml-ane-transformers and coreai-models for the
Neural Engine (docs/coreml.md): channels first, a 1x1 convolution for every linear
layer, static shapes, float16 throughout, and one transpose, of the tokens at the end.
"""

from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreml.mil_attention import attend
from fastvlm_mlx.convert.coreml.mil_weights import Weights
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS, FEATURES, EncoderWalk
from fastvlm_mlx.model.vision import FastViTHD
from fastvlm_mlx.model.vlm import Projector

# float16's smallest positive number: a smaller epsilon would be zero.
MIN_EPSILON = 6e-8


class EncoderBuilder:
    """Emits the encoder as one MIL function.

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
        walk = EncoderWalk(MILEmitter(self.options, self.weights))
        x = walk.encoder(self.encoder, x)
        name = FEATURES
        if self.projector is not None:
            name = EMBEDDINGS
            x = walk.projector(self.projector, x)
        # [1, C, H, W] -> [1, H * W, C]
        batch, dim, height, width = x.shape
        x = self.mb.reshape(x=x, shape=(batch, dim, height * width))
        final = self.options.precision == "float32"
        x = self.mb.transpose(x=x, perm=(0, 2, 1), **({"name": name} if final else {}))
        return x if final else self.mb.cast(x=x, dtype="fp32", name=name)


class MILEmitter:
    """The operations of `encoder_walk.Emitter` in MIL; values are MIL's."""

    def __init__(self, options: CoreMLOptions, weights: Weights):
        self.options = options
        self.weights = weights
        self.mb: Any = weights.builder

    def channels(self, x: Any) -> int:
        return x.shape[1]

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

    def pointwise(self, x: Any, weight: np.ndarray, bias: np.ndarray, name: str) -> Any:
        return self.mb.conv(
            x=x,
            weight=self.weights.pointwise(weight[:, :, None, None], f"{name}_weight"),
            bias=self.weights.plain(bias, f"{name}_bias"),
            name=name,
        )

    def gelu(self, x: Any) -> Any:
        return self.mb.gelu(x=x, mode="EXACT")

    def relu(self, x: Any) -> Any:
        return self.mb.relu(x=x)

    def sigmoid(self, x: Any) -> Any:
        return self.mb.sigmoid(x=x)

    def add(self, x: Any, y: Any) -> Any:
        return self.mb.add(x=x, y=y)

    def scale_channels(self, x: Any, gate: Any) -> Any:
        return self.mb.mul(x=x, y=gate)

    def spatial_mean(self, x: Any) -> Any:
        return self.mb.reduce_mean(x=x, axes=[2, 3], keep_dims=True)

    def average_pool(self, x: Any, side: int) -> Any:
        sides = [side] * 2
        return self.mb.avg_pool(
            x=x, kernel_sizes=sides, strides=sides, pad_type="valid"
        )

    def layer_norm(self, x: Any, eps: float) -> Any:
        """As LN(x, eps) = LN(x / k, eps / k^2).

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

    def attend(self, qkv: Any, head_dim: int) -> Any:
        return attend(self.mb, qkv, head_dim, self.options)

    def concat(self, maps: list[Any]) -> Any:
        return self.mb.concat(values=maps, axis=1)
