"""The vision encoders that the paper compares with FastViTHD, in MLX, random weights.

Each is the trunk that gives the visual tokens. Layer scales and affines of norms are
folded, and the operations are ours (`fastvlm_mlx.model.ops`), so that the comparison is
of networks, not of implementations. tests/benchmarks/test_paper_encoders.py compares
the parameter counts with the published ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.app.bench import flops
from fastvlm_mlx.app.bench.flops import Work
from fastvlm_mlx.model import ops
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision import FastViTHD
from fastvlm_mlx.model.vision_blocks import DepthwiseConv
from fastvlm_mlx.model.vision_config import VisionConfig


class ViTBlock(nn.Module):
    """Pre-norm self-attention, then an MLP (Dosovitskiy et al., arXiv 2010.11929)."""

    def __init__(self, dim: int, hidden_dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.head_dim = dim // heads

    def __call__(self, x: mx.array) -> mx.array:
        qkv = ops.linear(self.norm1(x), self.qkv)
        x = x + ops.linear(ops.attention(qkv, self.head_dim), self.proj)
        hidden = ops.linear(self.norm2(x), self.fc1, activate=True)
        return x + ops.linear(hidden, self.fc2)


@dataclass(frozen=True)
class ViTConfig:
    """A plain vision transformer; `class_token` as in CLIP, which LLaVA then drops.

    CLIP alone has a norm before its blocks, and no bias in its patches' convolution.
    """

    dim: int
    depth: int
    heads: int
    hidden_dim: int
    patch: int = 14
    class_token: bool = True
    norm_pre: bool = True

    def tokens(self, resolution: int) -> int:
        return (resolution // self.patch) ** 2

    def work(self, resolution: int, itemsize: int) -> Work:
        rows = self.tokens(resolution) + self.class_token
        block = flops.linear(rows, self.dim, 3 * self.dim, itemsize)
        block += flops.attention(rows, rows, self.dim, itemsize)
        block += flops.linear(rows, self.dim, self.dim, itemsize)
        block += flops.linear(rows, self.dim, self.hidden_dim, itemsize)
        block += flops.linear(rows, self.hidden_dim, self.dim, itemsize)
        return block * self.depth + flops.linear(
            rows, 3 * self.patch**2, self.dim, itemsize
        )


class ViT(nn.Module):
    """CLIP's, SigLIP's and DINOv2's encoder; its positions are made for one size."""

    def __init__(self, config: ViTConfig, resolution: int):
        super().__init__()
        c = config
        self.patch_embed = nn.Conv2d(
            3, c.dim, c.patch, stride=c.patch, bias=not c.norm_pre
        )
        if c.class_token:
            self.class_embed = mx.zeros((c.dim,))
        if c.norm_pre:
            self.norm_pre = nn.LayerNorm(c.dim)
        self.pos_embed = mx.zeros((c.tokens(resolution) + c.class_token, c.dim))
        self.blocks = [ViTBlock(c.dim, c.hidden_dim, c.heads) for _ in range(c.depth)]
        self.norm = nn.LayerNorm(c.dim)

    def __call__(self, pixels: mx.array) -> mx.array:
        """(B, R, R, 3) to (B, tokens, dim), the class token among them."""
        # [B, R / patch, R / patch, dim] -> [B, tokens, dim]
        x = self.patch_embed(pixels).flatten(1, 2)
        if "class_embed" in self:
            first = mx.broadcast_to(self.class_embed, (x.shape[0], 1, x.shape[2]))
            x = mx.concatenate([first, x], axis=1)
        x = x + self.pos_embed
        if "norm_pre" in self:
            x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, norm, MLP (Liu et al., arXiv 2201.03545)."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = DepthwiseConv(dim, dim, 7)
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = ops.linear(self.norm(self.conv(x)), self.fc1, activate=True)
        return x + ops.linear(hidden, self.fc2)


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Four stages at 1/4 to 1/32 of the resolution."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]

    def tokens(self, resolution: int) -> int:
        return (resolution // 32) ** 2

    def work(self, resolution: int, itemsize: int) -> Work:
        rows, before = (resolution // 4) ** 2, 12
        total = Work()
        for depth, dim in zip(self.depths, self.dims, strict=True):
            total += flops.linear(rows, before, dim, itemsize)
            block = flops.depthwise(rows, dim, 7, itemsize)
            block += flops.linear(rows, dim, 4 * dim, itemsize)
            block += flops.linear(rows, 4 * dim, dim, itemsize)
            total += block * depth
            rows, before = rows // 4, 4 * dim
        return total + Work(0, 48 * self.dims[0] * itemsize)


class ConvNeXt(nn.Module):
    """ConvNeXt's trunk, as in CLIP and ConvLLaVA (without the latter's fifth stage)."""

    def __init__(self, config: ConvNeXtConfig):
        super().__init__()
        dims = config.dims
        self.downsample = [
            nn.Conv2d(3, dims[0], 4, stride=4),
            *(
                nn.Conv2d(a, b, 2, stride=2)
                for a, b in zip(dims, dims[1:], strict=False)
            ),
        ]
        self.norms = [nn.LayerNorm(dims[0]), *(nn.LayerNorm(d) for d in dims[:-1])]
        self.stages = [
            [ConvNeXtBlock(dim) for _ in range(depth)]
            for depth, dim in zip(config.depths, dims, strict=True)
        ]

    def __call__(self, pixels: mx.array) -> mx.array:
        """(B, R, R, 3) to (B, (R / 32)^2, dim)."""
        # The stem is normed after its convolution, the others before theirs.
        x = self.norms[0](self.downsample[0](pixels))
        for index, blocks in enumerate(self.stages):
            if index:
                x = self.downsample[index](self.norms[index](x))
            for block in blocks:
                x = block(x)
        return x.flatten(1, 2)


@dataclass(frozen=True)
class Encoder:
    """One row of the paper's tables.

    `published` is its size in millions of parameters; `head` millions of those belong
    to parts that give no visual tokens (CLIP's projection, SigLIP's pooling).
    """

    published: float
    head: float
    build: Callable[[int], nn.Module]
    tokens: Callable[[int], int]
    work: Callable[[int, int], Work]


def _fastvit(published: float, head: float, config: VisionConfig) -> Encoder:
    return Encoder(
        published,
        head,
        lambda resolution: FastViTHD(config),
        # Table 3 is at 224 px, 3.5 tokens a side: rounded up, as convolutions do.
        lambda resolution: (-(-resolution // config.stride)) ** 2,
        lambda resolution, itemsize: flops.encoder(config, resolution, itemsize),
    )


def _vit(published: float, head: float, config: ViTConfig) -> Encoder:
    return Encoder(
        published,
        head,
        lambda resolution: ViT(config, resolution),
        config.tokens,
        config.work,
    )


def _convnext(published: float, head: float, config: ConvNeXtConfig) -> Encoder:
    return Encoder(
        published, head, lambda resolution: ConvNeXt(config), config.tokens, config.work
    )


MCI2 = {
    "depths": (4, 12, 24, 4),
    "embed_dims": (80, 160, 320, 640),
    "mlp_dims": (240, 480, 960, 1920),
    "token_mixers": ("repmixer",) * 3 + ("attention",),
    "pos_emb_kernels": (0, 0, 0, 7),
    "downsample_se_dims": (0, 0, 80, 160),
    "layer_norm": False,
    "out_dim": 1280,
    "out_se_dim": 80,
}
FASTVITHD, FASTVIT = "FastViTHD", "FastViT (MCi2)"

ENCODERS = {
    FASTVITHD: _fastvit(125.1, 3072 * 768 / 1e6, VisionConfig()),
    FASTVIT: _fastvit(35.7, 1280 * 512 / 1e6, VisionConfig(**MCI2)),
    "FastViT, AvgPool": _fastvit(
        35.7,
        1280 * 512 / 1e6,
        VisionConfig(**MCI2, multi_scale="avgpool", multi_scale_stages=(0, 1, 2)),
    ),
    "FastViT, DWConv": _fastvit(
        35.7,
        1280 * 512 / 1e6,
        VisionConfig(**MCI2, multi_scale="dwconv", multi_scale_stages=(0, 1, 2)),
    ),
    # CLIP ends in a projection to 768.
    "ViT-L/14": _vit(304, 1024 * 768 / 1e6, ViTConfig(1024, 24, 16, 4096)),
    # SigLIP ends in a pooling of one attention and one MLP.
    "SigLIP-SO400M": _vit(
        430,
        (4 * 1152**2 + 2 * 1152 * 4304) / 1e6,
        ViTConfig(1152, 27, 16, 4304, class_token=False, norm_pre=False),
    ),
    # A mask token for its training, and two layer scales a block, which are folded.
    "DINOv2 ViT-L/14": _vit(
        304.4, 49 * 1024 / 1e6, ViTConfig(1024, 24, 16, 4096, norm_pre=False)
    ),
    # OpenCLIP's convnext_large_d ends in an MLP of 1536 -> 1536 -> 768.
    "ConvNeXt-L": _convnext(
        200,
        (1536**2 + 1536 * 768) / 1e6,
        ConvNeXtConfig((3, 3, 27, 3), (192, 384, 768, 1536)),
    ),
    "ConvNeXt-XXL": _convnext(
        846,
        3072 * 1024 / 1e6,
        ConvNeXtConfig((3, 4, 30, 3), (384, 768, 1536, 3072)),
    ),
}

# Language models: hidden, layers, heads, key and value heads, intermediate, vocabulary.
_TEXT = {
    "Qwen2-0.5B": (896, 24, 14, 2, 4864, 151936),
    "Qwen2-1.5B": (1536, 28, 12, 2, 8960, 151936),
    "Qwen2-7B": (3584, 28, 28, 4, 18944, 152064),
    "Qwen1.5-0.5B": (1024, 24, 16, 16, 2816, 151936),
    "Vicuna-7B": (4096, 32, 32, 32, 11008, 32000),
    "MobileLLaMA-1.4B": (2048, 24, 16, 16, 5632, 32000),
    "Llama-3-8B": (4096, 32, 32, 8, 14336, 128256),
}
_TIED = ("Qwen2-0.5B", "Qwen2-1.5B", "Qwen1.5-0.5B")
LANGUAGE_MODELS = {
    name: TextConfig(
        model_type="qwen2" if name.startswith("Qwen") else "llama",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        rms_norm_eps=1e-6,
        tie_word_embeddings=name in _TIED,
        max_position_embeddings=32768,
        rope_theta=1000000.0,
    )
    for name, (hidden, layers, heads, kv_heads, inner, vocabulary) in _TEXT.items()
}
