"""FastViTHD, FastVLM's vision encoder, in its inference form.

    pixels -> stem -> stages (RepMixer ... attention) -> final_conv -> visual tokens

Everything that training keeps apart is one convolution here: the train-time
branches, BatchNorms, layer scales and LayerNorm affines were folded by
`convert/fold/reparam.py`. What is left is depthwise convolutions, 1x1 convolutions
(written as linear layers on the channel axis), GELU and attention, all in NHWC.

The shapes and names follow timm's `fastvit.py`; the network is section 3.2 of the
FastVLM paper (arXiv 2412.13303) and apple/ml-fastvlm's `mobileclip/mci.py`:
https://github.com/apple/ml-fastvlm/blob/592b4add/llava/model/multimodal_encoder/mobileclip/mci.py
"""

import threading
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model import ops
from fastvlm_mlx.model.vision_blocks import (
    AttentionBlock,
    DepthwiseConv,
    Part,
    RepMixerBlock,
    SqueezeExcite,
)
from fastvlm_mlx.model.vision_config import VisionConfig

# Held by who reads or changes the weights of an encoder that other threads may use:
# while one thread traces, MLX has tracers in place of the weights, for all threads.
WEIGHTS_LOCK = threading.RLock()


class Downsample(nn.Module):
    """Halves the grid with a large depthwise kernel, then mixes channels."""

    def __init__(self, dim: int, out_dim: int, kernel: int, se_dim: int):
        super().__init__()
        self.depthwise = DepthwiseConv(dim, out_dim, kernel, stride=2)
        if se_dim:
            self.se = SqueezeExcite(out_dim, se_dim)
        self.pointwise = nn.Linear(out_dim, out_dim)

    def __call__(self, x: mx.array) -> mx.array:
        if "se" in self:
            x = ops.gelu(self.se(self.depthwise(x)))
        else:
            x = self.depthwise(x, activate=True)
        return ops.linear(x, self.pointwise, activate=True)


class Stage(nn.Module):
    """Downsampling, a position encoding where attention follows, then the blocks."""

    def __init__(self, index: int, config: VisionConfig):
        super().__init__()
        dim, hidden_dim = config.embed_dims[index], config.mlp_dims[index]
        if index:
            self.downsample = Downsample(
                config.embed_dims[index - 1],
                dim,
                config.downsample_kernel,
                config.downsample_se_dims[index],
            )
        if config.pos_emb_kernels[index]:
            # Folded: the skip of RepCPE is the kernel's centre.
            self.pos_emb = DepthwiseConv(dim, dim, config.pos_emb_kernels[index])
        attention = config.token_mixers[index] == "attention"
        block = AttentionBlock if attention else RepMixerBlock
        self.blocks = [
            block(dim, hidden_dim, config) for _ in range(config.depths[index])
        ]

    def parts(self) -> Iterator[Part]:
        """What a map goes through, in order."""
        if "downsample" in self:
            yield self.downsample
        if "pos_emb" in self:
            yield self.pos_emb
        for block in self.blocks:
            yield from block.parts()


class Stem(nn.Module):
    """Three convolutions: dense and depthwise, stride 2 each, then pointwise."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 3, stride=2, padding=1)
        self.depthwise = DepthwiseConv(dim, dim, 3, stride=2)
        self.pointwise = nn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.stem(x, self.conv, self.depthwise, self.pointwise)


class FinalConv(nn.Module):
    """Widens the last map and gates its channels."""

    def __init__(self, dim: int, out_dim: int, se_dim: int):
        super().__init__()
        self.depthwise = DepthwiseConv(dim, out_dim, 3)
        self.se = SqueezeExcite(out_dim, se_dim)

    def __call__(self, x: mx.array) -> mx.array:
        return ops.gelu(self.se(self.depthwise(x)))


class Pool(nn.Module):
    """Brings a stage's map to the last grid: the mean, or a learnt kernel, of each
    `ratio` x `ratio` window (section 3.1.1 and table 2 of the paper).

    Attributes:
        ratio: the side of a window, in positions of the stage's map.
        weight, bias: (ratio, ratio, dim) and (dim,), of a learnt kernel only.
    """

    def __init__(self, dim: int, ratio: int, learnt: bool):
        super().__init__()
        self.ratio = ratio
        if learnt:
            self.weight = mx.zeros((ratio, ratio, dim))
            self.bias = mx.zeros((dim,))

    def __call__(self, x: mx.array) -> mx.array:
        B, H, W, C = x.shape
        r = self.ratio
        # Windows do not overlap, so pooling is a sum over two axes, in float32:
        # [B, H / r, r, W / r, r, C]
        windows = x.astype(mx.float32).reshape(B, H // r, r, W // r, r, C)
        if "weight" in self:
            pooled = (windows * self.weight[:, None]).sum(axis=(2, 4)) + self.bias
        else:
            pooled = windows.mean(axis=(2, 4))
        return pooled.astype(x.dtype)


class FastViTHD(nn.Module):
    """FastVLM's hybrid encoder; also MobileCLIP's four-stage relatives, by config."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        last = len(config.embed_dims) - 1
        self.stem = Stem(config.embed_dims[0])
        self.stages = [Stage(i, config) for i in range(last + 1)]
        self.final_conv = FinalConv(
            config.embed_dims[-1], config.out_dim, config.out_se_dim
        )
        # Keys are `stageN`: MLX would load purely numeric keys into a list.
        self.multi_scale = {
            f"stage{i}": Pool(
                config.embed_dims[i], 2 ** (last - i), config.multi_scale == "dwconv"
            )
            for i in config.multi_scale_stages
        }
        self._config = config
        self._compiled: Callable[[mx.array], mx.array] | None = None

    def __call__(self, pixels: mx.array) -> mx.array:
        """Encodes square images into visual tokens, row by row.

        Shapes:
            pixels: (B, R, R, 3), uint8 or floats in 0..1; R: a multiple of 64
            returns (B, (R / 64)^2, feature_dim)
        """
        if not device.on_gpu():
            return self._features(pixels)
        with WEIGHTS_LOCK:
            if self._compiled is None:
                # `inputs`: weights that change later are seen.
                self._compiled = mx.compile(self._features, inputs=self)
            weights = self.parameters()
            try:
                return self._compiled(pixels)
            except BaseException:
                # MLX puts the weights back only if the function returns.
                self.update(weights)
                self._compiled = None
                raise

    def intermediates(self, pixels: mx.array) -> dict[str, mx.array]:
        """The maps after each part, by name: `stem`, `stages.0`, ..., `final_conv`
        (all B, H, W, C) and the `features` that `__call__` returns."""
        with WEIGHTS_LOCK:
            maps = self._maps(pixels, {name for name, _ in self._parts()})
            return maps | {"features": self._joined(maps)}

    def _features(self, pixels: mx.array) -> mx.array:
        stages = (f"stages.{i}" for i in self._config.multi_scale_stages)
        return self._joined(self._maps(pixels, {*stages, "final_conv"}))

    def _maps(self, pixels: mx.array, names: set[str]) -> dict[str, mx.array]:
        """The last map of each of `names`. Nothing holds another one for longer than
        the part that takes it: at 1024 px the first are 25 MB."""
        x, last, maps = pixels, "", {}
        for name, part in self._parts():
            if name != last and name in ("stem", "stages.1"):
                kernels.release_memory()  # the maps of stage 0 are the largest
            x, last = part(x), name
            if name in names:
                maps[name] = x
        return maps

    def _parts(self) -> Iterator[tuple[str, Part]]:
        yield "stem", self._stem
        for i, stage in enumerate(self.stages):
            for part in stage.parts():
                yield f"stages.{i}", part
        yield "final_conv", self.final_conv

    def _stem(self, pixels: mx.array) -> mx.array:
        if pixels.dtype == mx.uint8:
            pixels = pixels.astype(mx.float32) / 255
        return self.stem(pixels.astype(self.stem.conv.weight.dtype))

    def _joined(self, maps: dict[str, mx.array]) -> mx.array:
        pooled = [
            self.multi_scale[f"stage{i}"](maps[f"stages.{i}"])
            for i in self._config.multi_scale_stages
        ]
        x = maps["final_conv"]
        x = mx.concatenate([x, *pooled], axis=-1) if pooled else x
        # [B, H, W, C] -> [B, H * W, C]
        return x.flatten(1, 2)
