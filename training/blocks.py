"""The encoder's building blocks in their train-time form, with Apple's names.

Every branch keeps its own BatchNorm, as in RepVGG: `rbr_conv`, `rbr_scale`,
`rbr_skip`, `lkb_origin`, `small_conv`. Convolutions are (B, C, H, W).
"""

import torch
from torch import nn
from torch.nn import functional as F

HEAD_DIM = 32
MLP_RATIO = 4


class ConvBN(nn.Module):
    """A bias-free convolution and its BatchNorm."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, stride: int, groups: int
    ):
        super().__init__()
        pad = kernel // 2
        self.conv = nn.Conv2d(
            dim_in, dim_out, kernel, stride, pad, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(dim_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class DropPath(nn.Module):
    """Stochastic depth: the residual branch of an image is dropped as a whole."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean of the image (1/16 of the width inside)."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduce = nn.Conv2d(dim, dim // 16, 1)
        self.expand = nn.Conv2d(dim // 16, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class MobileOneBlock(nn.Module):
    """Parallel branches of one convolution: k x k, 1 x 1 ("scale") and identity."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        conv_branch: bool = True,
        scale_branch: bool = True,
        squeeze: bool = False,
        activate: bool = True,
    ):
        super().__init__()
        if conv_branch:
            branch = ConvBN(dim_in, dim_out, kernel, stride, groups)
            self.rbr_conv = nn.ModuleList([branch])
        else:
            self.rbr_conv = None
        wide = kernel > 1 and scale_branch
        self.rbr_scale = ConvBN(dim_in, dim_out, 1, stride, groups) if wide else None
        same = dim_in == dim_out and stride == 1
        self.rbr_skip = nn.BatchNorm2d(dim_in) if same else None
        self.se = SqueezeExcite(dim_out) if squeeze else nn.Identity()
        self.activation = nn.GELU() if activate else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [self.rbr_scale, self.rbr_skip, *(self.rbr_conv or [])]
        out = sum(branch(x) for branch in branches if branch is not None)
        return self.activation(self.se(out))


class LargeKernelConv(nn.Module):
    """A 7 x 7 depthwise branch beside a 3 x 3 one, then GELU (RepLKNet)."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        self.lkb_origin = ConvBN(dim_in, dim_out, 7, 2, dim_in)
        self.small_conv = ConvBN(dim_in, dim_out, 3, 2, dim_in)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.lkb_origin(x) + self.small_conv(x))


class Downsample(nn.Module):
    """Halve the grid and widen: large-kernel convolution, then a 1 x 1 block."""

    def __init__(self, dim_in: int, dim_out: int):
        super().__init__()
        pointwise = MobileOneBlock(dim_out, dim_out, 1)
        self.proj = nn.Sequential(LargeKernelConv(dim_in, dim_out), pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class ConvFFN(nn.Module):
    """7 x 7 depthwise convolution and BatchNorm, then two 1 x 1 layers with GELU."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = ConvBN(dim, dim, 7, 1, dim)
        self.fc1 = nn.Conv2d(dim, MLP_RATIO * dim, 1)
        self.fc2 = nn.Conv2d(MLP_RATIO * dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(self.conv(x))))


def layer_scale(dim: int, value: float = 0.1) -> nn.Parameter:
    """Apple starts at 1e-5, which suits 300 epochs; a short run needs a warm start."""
    return nn.Parameter(torch.full((dim, 1, 1), value))


class RepMixer(nn.Module):
    """x + scale * (mixer(x) - norm(x)): one depthwise 3 x 3 kernel once folded."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = MobileOneBlock(
            dim, dim, 3, groups=dim, conv_branch=False, scale_branch=False,
            activate=False,
        )  # fmt: skip
        self.mixer = MobileOneBlock(dim, dim, 3, groups=dim, activate=False)
        self.layer_scale = layer_scale(dim, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer_scale * (self.mixer(x) - self.norm(x))


class RepMixerBlock(nn.Module):
    """Token mixing by RepMixer, then the ConvFFN (FastViT, figure 2)."""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        self.token_mixer = RepMixer(dim)
        self.convffn = ConvFFN(dim)
        self.drop_path = DropPath(drop_path)
        self.layer_scale = layer_scale(dim, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.token_mixer(x)
        return x + self.drop_path(self.layer_scale * self.convffn(x))


class LayerNormChannel(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.permute(0, 2, 3, 1)
        y = F.layer_norm(y, y.shape[-1:], self.weight, self.bias, 1e-5)
        return y.permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention among all positions of the grid."""

    def __init__(self, dim: int):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, C, H, W = x.shape
        # [B, C, H, W] -> [3, B, heads, H*W, head_dim]
        qkv = self.qkv(x.flatten(2).transpose(1, 2))
        qkv = qkv.reshape(B, H * W, 3, C // HEAD_DIM, HEAD_DIM).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv.unbind(0))
        out = self.proj(out.transpose(1, 2).reshape(B, H * W, C))
        return out.transpose(1, 2).reshape(B, C, H, W)


class AttentionBlock(nn.Module):
    """Self-attention, then the ConvFFN."""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        self.norm = LayerNormChannel(dim)
        self.token_mixer = SelfAttention(dim)
        self.convffn = ConvFFN(dim)
        self.drop_path = DropPath(drop_path)
        self.layer_scale_1 = layer_scale(dim, 1.0)
        self.layer_scale_2 = layer_scale(dim, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.layer_scale_1 * self.token_mixer(self.norm(x))
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.layer_scale_2 * self.convffn(x))


class RepCPE(nn.Module):
    """Position encoding that depends on the input: x + a 7 x 7 depthwise of it."""

    def __init__(self, dim: int):
        super().__init__()
        self.pe = nn.Conv2d(dim, dim, 7, 1, 3, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pe(x) + x
