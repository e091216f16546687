"""FastViTHD in its train-time form: every branch and BatchNorm kept apart.

The product holds only the folded form (fastvlm_mlx/model/vision.py); this file exists
so that our checkpoints have the same tensors as a training run of Apple's. Attribute
names are therefore Apple's, not ours: `patch_embed`, `network.N`, `conv_exp`.
Images are (B, 3, H, W) floats in 0..1; the grid of tokens is (H/64, W/64).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from training.blocks import (
    AttentionBlock,
    ConvBN,
    Downsample,
    MobileOneBlock,
    RepCPE,
    RepMixerBlock,
)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder. Stages 3 and 4 attend, so their widths are multiples of 32.

    `multi_scale` is None, "avgpool" or "dwconv" (section 3.1.1 of the paper);
    `multi_scale_stages` lists the stages (0 to 3) whose output joins the last one.
    """

    embed_dims: tuple[int, ...] = (8, 16, 64, 128, 256)
    layers: tuple[int, ...] = (1, 1, 2, 2, 1)
    drop_path: float = 0.0
    multi_scale: str | None = "dwconv"
    multi_scale_stages: tuple[int, ...] = (1, 2, 3)

    @property
    def output_dim(self) -> int:
        """Channels of a token as the projector sees it."""
        extra = sum(self.embed_dims[s] for s in self.multi_scale_stages)
        return 2 * self.embed_dims[-1] + (extra if self.multi_scale else 0)


class MultiScale(nn.ModuleDict):
    """One strided depthwise convolution and BatchNorm for each pooled stage."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        for stage in config.multi_scale_stages:
            dim, ratio = config.embed_dims[stage], 2 ** (4 - stage)
            branch = ConvBN(dim, dim, ratio, ratio, dim)
            branch.conv.padding = (0, 0)
            # Starts as the average, so that training departs from AvgPool.
            nn.init.constant_(branch.conv.weight, 1.0 / ratio**2)
            self[str(stage)] = branch


class FastViTHD(nn.Module):
    """The whole encoder, with Apple's flat `network` list of stages and steps."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        dims, layers = config.embed_dims, config.layers
        self.patch_embed = nn.Sequential(
            MobileOneBlock(3, dims[0], 3, 2, scale_branch=False),
            MobileOneBlock(dims[0], dims[0], 3, 2, dims[0], scale_branch=False),
            MobileOneBlock(dims[0], dims[0], 1, scale_branch=False),
        )
        network: list[nn.Module] = []
        self.stage_ends: list[int] = []
        for stage, (dim, depth) in enumerate(zip(dims, layers, strict=True)):
            if stage > 0:
                network.append(Downsample(dims[stage - 1], dim))
            if stage >= 3:
                network.append(RepCPE(dim))
            kind = AttentionBlock if stage >= 3 else RepMixerBlock
            first, last = sum(layers[:stage]), max(sum(layers) - 1, 1)
            rates = [config.drop_path * (first + i) / last for i in range(depth)]
            network.append(nn.Sequential(*[kind(dim, rate) for rate in rates]))
            self.stage_ends.append(len(network) - 1)
        self.network = nn.ModuleList(network)
        self.conv_exp = MobileOneBlock(
            dims[-1], 2 * dims[-1], 3, groups=dims[-1], squeeze=True
        )
        if config.multi_scale == "dwconv":
            self.multi_scale = MultiScale(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) pixels in 0..1 -> (B, H/64 * W/64, output_dim), row by row."""
        return self.forward_stages(x)[0]

    def forward_stages(self, x: torch.Tensor) -> tuple[torch.Tensor, list]:
        """The tokens, and the output of each stage: (B, C, H/4 ... H/64, ...)."""
        x = self.patch_embed(x)
        stages = []
        for index, block in enumerate(self.network):
            x = block(x)
            if index in self.stage_ends:
                stages.append(x)
        parts = [self.conv_exp(x)]
        if self.config.multi_scale:
            parts += [self._pool(stages[s], s) for s in self.config.multi_scale_stages]
        return torch.cat(parts, 1).flatten(2).transpose(1, 2), stages

    def _pool(self, x: torch.Tensor, stage: int) -> torch.Tensor:
        if self.config.multi_scale == "dwconv":
            return self.multi_scale[str(stage)](x)
        return F.avg_pool2d(x, 2 ** (4 - stage))
