"""FLOPs and bytes of FastVLM's stages, counted from the shapes.

A multiply-add is two FLOPs; activations, norms and softmax are not counted. Bytes
are what even a well fused implementation moves: every weight once, and the input and
output of each convolution and product once (bias, GELU and skip ride along).
`itemsize` is the bytes of one number, 2 for 16-bit floats.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvlm_mlx.model.config import ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision_config import VisionConfig

if TYPE_CHECKING:
    import mlx.nn as nn


@dataclass(frozen=True)
class Work:
    """What has to be computed and moved: floating point operations, bytes."""

    flops: float = 0
    bytes: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.bytes * times)


def linear(
    rows: float, dim: int, out_dim: int, itemsize: int, weight_itemsize: float = 0
) -> Work:
    """A product of `rows` with a weight; `weight_itemsize` if it is quantized."""
    weight = dim * out_dim * (weight_itemsize or itemsize)
    return Work(2 * rows * dim * out_dim, rows * (dim + out_dim) * itemsize + weight)


def depthwise(
    rows: float, dim: int, kernel: int, itemsize: int, *, stride: int = 1
) -> Work:
    """`rows` output positions of `dim` channels, each with its own kernel(s)."""
    moved = rows * dim * (1 + stride**2) + kernel**2 * dim
    return Work(2 * rows * dim * kernel**2, moved * itemsize)


def attention(rows: float, keys: float, dim: int, itemsize: int) -> Work:
    """Scores and weighted values of `rows` queries and `keys` keys, all heads."""
    return Work(4 * rows * keys * dim, (2 * rows + 2 * keys) * dim * itemsize)


def encoder(config: VisionConfig, resolution: int, itemsize: int) -> Work:
    """One square image of `resolution` pixels through FastViTHD or a relative."""
    dim, grid = config.embed_dims[0], resolution // 2
    # A dense 3x3 convolution is a product of its 27 inputs.
    total = linear(grid**2, 27, dim, itemsize)
    rows = (grid // 2) ** 2
    total += depthwise(rows, dim, 3, itemsize, stride=2)
    total += linear(rows, dim, dim, itemsize)
    for index, dim in enumerate(config.embed_dims):
        total += _stage(config, index, rows if index == 0 else rows // 4, itemsize)
        rows = rows if index == 0 else rows // 4
        if index in config.multi_scale_stages:
            total += Work(rows * dim, rows * dim * itemsize)
    total += depthwise(rows, config.out_dim, 3, itemsize)
    for sizes in (
        (config.out_dim, config.out_se_dim),
        (config.out_se_dim, config.out_dim),
    ):
        total += linear(1, *sizes, itemsize)
    return total


def _stage(config: VisionConfig, index: int, rows: int, itemsize: int) -> Work:
    dim, hidden = config.embed_dims[index], config.mlp_dims[index]
    total = Work()
    if index:
        kernel = config.downsample_kernel
        total += depthwise(rows, dim, kernel, itemsize, stride=2)
        total += linear(rows, dim, dim, itemsize)
    if kernel := config.pos_emb_kernels[index]:
        total += depthwise(rows, dim, kernel, itemsize)
    if config.token_mixers[index] == "attention":
        block = linear(rows, dim, 3 * dim, itemsize)
        block += attention(rows, rows, dim, itemsize)
        block += linear(rows, dim, dim, itemsize)
    else:
        block = depthwise(rows, dim, config.repmixer_kernel, itemsize)
    block += depthwise(rows, dim, config.ffn_kernel, itemsize)
    block += linear(rows, dim, hidden, itemsize) + linear(rows, hidden, dim, itemsize)
    return total + block * config.depths[index]


def projector(config: ProjectorConfig, tokens: int, itemsize: int) -> Work:
    """Visual tokens to embeddings."""
    total = Work()
    for sizes in zip(config.dims, config.dims[1:], strict=False):
        total += linear(tokens, *sizes, itemsize)
    return total


def prefill(
    text: TextConfig,
    tokens: int,
    itemsize: int,
    *,
    cached: int = 0,
    weight_itemsize: float = 0,
) -> Work:
    """`tokens` new positions after `cached` ones, and the logits of the last.

    With `tokens` 1 this is one step of decoding. `weight_itemsize` is of a quantized
    weight, scales and biases included, as `weight_itemsize` gives it.
    """
    sizes = itemsize, weight_itemsize
    hidden, inner = text.hidden_size, text.intermediate_size
    heads, head_dim = text.num_attention_heads, text.head_dim
    kv_dim = text.num_key_value_heads * head_dim
    layer = linear(tokens, hidden, heads * head_dim + 2 * kv_dim, *sizes)
    layer += linear(tokens, heads * head_dim, hidden, *sizes)
    layer += linear(tokens, hidden, 2 * inner, *sizes)
    layer += linear(tokens, inner, hidden, *sizes)
    # A position looks at those before it: half of the new ones on average.
    keys = cached + (tokens + 1) / 2
    layer += Work(
        4 * tokens * keys * heads * head_dim,
        2 * (cached + tokens) * kv_dim * itemsize,
    )
    return layer * text.num_hidden_layers + linear(1, hidden, text.vocab_size, *sizes)


def weight_itemsize(language_model: "nn.Module") -> float:
    """Bytes of one weight as it is in memory, with the scales of quantized ones."""
    numbers = total = 0
    for _, layer in language_model.named_modules():
        weight = layer.get("weight")
        if weight is None or weight.ndim < 2:
            continue
        packed = layer.get("scales") is not None
        numbers += weight.size * (32 // layer.bits if packed else 1)
        total += sum(
            layer[k].nbytes for k in ("weight", "scales", "biases") if k in layer
        )
    return total / numbers
