"""Random FastViT encoders under Apple's names, in train or inference form.

The names and shapes follow apple/ml-fastvlm's `mobileclip/mci.py`; statistics of the
BatchNorms are random, so that every fold shows.
"""

import re
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Encoder:
    """Sizes of one encoder, per stage; the defaults are small and have every part."""

    depths: tuple[int, ...] = (1, 1, 2, 1, 1)
    widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    mlp_ratio: int = 2
    attention_from: int = 3
    se_from: int = 99
    batch_norm: bool = False
    stem_scale: bool = False
    layer_scale: bool = True
    fused: bool = True
    branches: int = 1
    se_dim: int = 8
    pooled: tuple[int, ...] = ()

    @property
    def out_dim(self) -> int:
        return 2 * self.widths[-1]

    @property
    def feature_dim(self) -> int:
        return self.out_dim + sum(self.widths[stage] for stage in self.pooled)


MCI = Encoder(  # a small relative of MobileCLIP's four-stage mci0
    depths=(1, 2, 1, 1),
    widths=(8, 16, 32, 64),
    attention_from=3,
    se_from=2,
    batch_norm=True,
    stem_scale=True,
)


class _Builder:
    def __init__(self, encoder: Encoder, seed: int):
        self.encoder = encoder
        self.random = np.random.default_rng(seed)
        self.out: Arrays = {}

    def normal(self, name: str, *shape: int, scale: float = 0.1, mean: float = 0.0):
        values = self.random.normal(mean, scale, shape)
        self.out[name] = values.astype(np.float32)

    def batch_norm(self, name: str, dim: int):
        self.normal(f"{name}.weight", dim, mean=0.8, scale=0.2)
        self.normal(f"{name}.bias", dim)
        self.normal(f"{name}.running_mean", dim)
        variance = self.random.uniform(0.3, 2.0, dim)
        self.out[f"{name}.running_var"] = variance.astype(np.float32)
        self.out[f"{name}.num_batches_tracked"] = np.array(7, np.int64)

    def conv(self, name: str, out: int, inputs: int, kernel: int, bias: bool = True):
        # Keeps the scale of what passes through, whatever the size.
        spread = (inputs * kernel * kernel) ** -0.5
        self.normal(f"{name}.weight", out, inputs, kernel, kernel, scale=spread)
        if bias:
            self.normal(f"{name}.bias", out)

    def conv_norm(self, name: str, out: int, inputs: int, kernel: int):
        self.conv(f"{name}.conv", out, inputs, kernel, bias=False)
        self.batch_norm(f"{name}.bn", out)

    def mobile_one(
        self,
        name: str,
        out: int,
        inputs: int,
        kernel: int,
        *,
        scale: bool = True,
        skip: bool = False,
        branches: int | None = None,
    ):
        """`inputs` are those of one group."""
        if self.encoder.fused:
            return self.conv(f"{name}.reparam_conv", out, inputs, kernel)
        for i in range(self.encoder.branches if branches is None else branches):
            self.conv_norm(f"{name}.rbr_conv.{i}", out, inputs, kernel)
        if scale and kernel > 1:
            self.conv_norm(f"{name}.rbr_scale", out, inputs, 1)
        if skip:
            self.batch_norm(f"{name}.rbr_skip", out)

    def squeeze_excite(self, name: str, dim: int, hidden: int, names: tuple[str, str]):
        self.conv(f"{name}.{names[0]}", hidden, dim, 1)
        self.conv(f"{name}.{names[1]}", dim, hidden, 1)

    def layer_scale(self, name: str, dim: int):
        if self.encoder.layer_scale:
            self.normal(name, dim, 1, 1, mean=0.5, scale=0.2)

    def ffn(self, name: str, dim: int):
        hidden = self.encoder.mlp_ratio * dim
        self.conv_norm(f"{name}.conv", dim, 1, 7)
        self.conv(f"{name}.fc1", hidden, dim, 1)
        self.conv(f"{name}.fc2", dim, hidden, 1)

    def rep_mixer_block(self, name: str, dim: int):
        mixer = f"{name}.token_mixer"
        if self.encoder.fused:
            self.conv(f"{mixer}.reparam_conv", dim, 1, 3)
        else:
            self.mobile_one(f"{mixer}.mixer", dim, 1, 3, skip=True)
            self.batch_norm(f"{mixer}.norm.rbr_skip", dim)
            self.layer_scale(f"{mixer}.layer_scale", dim)
        self.ffn(f"{name}.convffn", dim)
        self.layer_scale(f"{name}.layer_scale", dim)

    def attention_block(self, name: str, dim: int):
        if self.encoder.batch_norm:
            self.batch_norm(f"{name}.norm", dim)
        else:
            self.normal(f"{name}.norm.weight", dim, mean=1.0)
            self.normal(f"{name}.norm.bias", dim)
        spread = dim**-0.5
        self.normal(f"{name}.token_mixer.qkv.weight", 3 * dim, dim, scale=spread)
        self.normal(f"{name}.token_mixer.proj.weight", dim, dim, scale=spread)
        self.normal(f"{name}.token_mixer.proj.bias", dim)
        self.ffn(f"{name}.convffn", dim)
        self.layer_scale(f"{name}.layer_scale_1", dim)
        self.layer_scale(f"{name}.layer_scale_2", dim)

    def downsample(self, name: str, dim: int, out: int, se: bool):
        if self.encoder.fused:
            self.conv(f"{name}.proj.0.lkb_reparam", out, 1, 7)
        else:
            self.conv_norm(f"{name}.proj.0.lkb_origin", out, 1, 7)
            self.conv_norm(f"{name}.proj.0.small_conv", out, 1, 3)
        if se:
            self.squeeze_excite(f"{name}.proj.0.se", out, out // 4, ("fc1", "fc2"))
        self.mobile_one(f"{name}.proj.1", out, out, 1, skip=True)

    def build(self) -> Arrays:
        e = self.encoder
        scale, first = e.stem_scale, e.widths[0]
        self.mobile_one("patch_embed.0", first, 3, 3, scale=scale)
        self.mobile_one("patch_embed.1", first, 1, 3, scale=scale)
        self.mobile_one("patch_embed.2", first, first, 1, skip=True)
        index = 0
        for stage, dim in enumerate(e.widths):
            if stage:
                previous = e.widths[stage - 1]
                se = stage >= e.se_from
                self.downsample(f"network.{index}", previous, dim, se)
                index += 1
            if stage >= e.attention_from:
                part = "reparam_conv" if e.fused else "pe"
                self.conv(f"network.{index}.{part}", dim, 1, 7)
                index += 1
            attention = stage >= e.attention_from
            block = self.attention_block if attention else self.rep_mixer_block
            for i in range(e.depths[stage]):
                block(f"network.{index}.{i}", dim)
            index += 1
        self.mobile_one("conv_exp", e.out_dim, 1, 3)
        self.squeeze_excite("conv_exp.se", e.out_dim, e.se_dim, ("reduce", "expand"))
        self.normal("head.proj", e.out_dim, 24)
        for stage in e.pooled:
            ratio = 2 ** (len(e.widths) - 1 - stage)
            self.conv_norm(f"multi_scale.{stage}", e.widths[stage], 1, ratio)
        return self.out


def build(encoder: Encoder, seed: int = 0) -> Arrays:
    """The tensors of a random encoder, by Apple's names without a prefix."""
    return _Builder(encoder, seed).build()


def in_timm_names(tensors: Arrays, encoder: Encoder) -> Arrays:
    """The same tensors as timm's `fastvit.py` names them."""
    places: list[str] = []
    for stage in range(len(encoder.widths)):
        places += [f"stages.{stage}.downsample"] if stage else []
        places += [f"stages.{stage}.pos_emb"] if stage >= encoder.attention_from else []
        places += [f"stages.{stage}.blocks"]
    renamed = {}
    for name, value in tensors.items():
        name = re.sub(r"^network\.(\d+)", lambda m: places[int(m[1])], name)
        for apple, timm in (
            ("patch_embed", "stem"),
            ("conv_exp", "final_conv"),
            ("convffn", "mlp"),
            ("rbr_conv", "conv_kxk"),
            ("rbr_scale", "conv_scale"),
            ("rbr_skip", "identity"),
            ("lkb_origin", "large_conv"),
            ("lkb_reparam", "reparam_conv"),
            ("se.reduce", "se.fc1"),
            ("se.expand", "se.fc2"),
            ("pos_emb.pe.", "pos_emb.pos_enc."),
        ):
            name = name.replace(apple, timm)
        name = re.sub(r"(layer_scale\w*)$", r"\1.gamma", name)
        if name != "head.proj":
            renamed[name] = value
    return renamed


def in_mlx_layout(tensors: Arrays) -> Arrays:
    """As mlx-vlm's conversions: channels last, the stem's blocks in a list."""
    out = {}
    for name, value in tensors.items():
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        if re.search(r"layer_scale(_\d)?$", name):
            value = value.transpose(1, 2, 0)
        if not name.startswith("head.") and "num_batches" not in name:
            out[name.replace("patch_embed.", "patch_embed.blocks.")] = value
    return out


def to_mlx(tensors: Arrays, prefix: str = "") -> dict[str, mx.array]:
    return {prefix + name: mx.array(value) for name, value in tensors.items()}
