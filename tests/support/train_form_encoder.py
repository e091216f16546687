"""The train form of the encoder, computed directly from Apple-named tensors.

Written from apple/ml-fastvlm's `mobileclip/mci.py`, apart from the product: nothing
is folded, every branch, BatchNorm and layer scale is computed as in training's
evaluation mode. Maps are (B, H, W, C); parts already folded are computed as such.
"""

import mlx.core as mx
import mlx.nn as nn

Tensors = dict[str, mx.array]


class TrainFormEncoder:
    """The tensors of one encoder, by Apple's names without a prefix."""

    def __init__(self, tensors: Tensors):
        self.tensors = {
            name: value.astype(mx.float32)
            for name, value in tensors.items()
            if mx.issubdtype(value.dtype, mx.floating)
        }

    def has(self, name: str) -> bool:
        return any(key.startswith(name + ".") for key in self.tensors)

    def get(self, name: str) -> mx.array:
        return self.tensors[name]

    def conv(self, x: mx.array, name: str, stride: int = 1) -> mx.array:
        """A convolution as PyTorch stores it; its groups are told by its inputs."""
        weight = self.get(f"{name}.weight").transpose(0, 2, 3, 1)
        groups = x.shape[-1] // weight.shape[-1]
        x = mx.conv2d(x, weight, stride, weight.shape[1] // 2, groups=groups)
        bias = self.tensors.get(f"{name}.bias")
        return x if bias is None else x + bias

    def batch_norm(self, x: mx.array, name: str) -> mx.array:
        variance = self.get(f"{name}.running_var") + 1e-5
        x = (x - self.get(f"{name}.running_mean")) / mx.sqrt(variance)
        return x * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    def conv_norm(self, x: mx.array, name: str, stride: int = 1) -> mx.array:
        return self.batch_norm(self.conv(x, f"{name}.conv", stride), f"{name}.bn")

    def scale(self, x: mx.array, name: str) -> mx.array:
        gamma = self.tensors.get(name)
        return x if gamma is None else x * gamma.reshape(-1)

    def squeeze_excite(self, x: mx.array, name: str) -> mx.array:
        for reduce, expand in (("reduce", "expand"), ("fc1", "fc2")):
            if self.has(f"{name}.{reduce}"):
                gate = x.mean(axis=(1, 2), keepdims=True)
                gate = nn.relu(self.conv(gate, f"{name}.{reduce}"))
                x = x * mx.sigmoid(self.conv(gate, f"{name}.{expand}"))
        return x

    def mobile_one(self, x: mx.array, name: str, stride: int = 1) -> mx.array:
        """The sum of the branches; squeeze-excite and activation are the caller's."""
        if self.has(f"{name}.reparam_conv"):
            return self.conv(x, f"{name}.reparam_conv", stride)
        branches = []
        i = 0
        while self.has(f"{name}.rbr_conv.{i}"):
            branches.append(self.conv_norm(x, f"{name}.rbr_conv.{i}", stride))
            i += 1
        if self.has(f"{name}.rbr_scale"):
            branches.append(self.conv_norm(x, f"{name}.rbr_scale", stride))
        if self.has(f"{name}.rbr_skip"):
            branches.append(self.batch_norm(x, f"{name}.rbr_skip"))
        return sum(branches[1:], branches[0])

    def rep_mixer(self, x: mx.array, name: str) -> mx.array:
        if self.has(f"{name}.reparam_conv"):
            return self.conv(x, f"{name}.reparam_conv")
        mixed = self.mobile_one(x, f"{name}.mixer")
        mixed = mixed - self.mobile_one(x, f"{name}.norm")
        return x + self.scale(mixed, f"{name}.layer_scale")

    def ffn(self, x: mx.array, name: str) -> mx.array:
        x = self.conv_norm(x, f"{name}.conv")
        return self.conv(nn.gelu(self.conv(x, f"{name}.fc1")), f"{name}.fc2")

    def norm(self, x: mx.array, name: str) -> mx.array:
        if self.has(f"{name}.running_var") or f"{name}.running_var" in self.tensors:
            return self.batch_norm(x, name)
        mean = x.mean(axis=-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
        x = (x - mean) / mx.sqrt(variance + 1e-5)
        return x * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    def attention(self, x: mx.array, name: str) -> mx.array:
        B, H, W, C = x.shape
        qkv = x.reshape(B, H * W, C) @ self.get(f"{name}.qkv.weight").T
        q, k, v = qkv.reshape(B, H * W, 3, C // 32, 32).transpose(2, 0, 3, 1, 4)
        weights = mx.softmax((q * 32**-0.5) @ k.swapaxes(-1, -2), axis=-1)
        x = (weights @ v).transpose(0, 2, 1, 3).reshape(B, H, W, C)
        return x @ self.get(f"{name}.proj.weight").T + self.get(f"{name}.proj.bias")

    def block(self, x: mx.array, name: str) -> mx.array:
        if self.has(f"{name}.token_mixer.qkv"):
            mixed = self.attention(self.norm(x, f"{name}.norm"), f"{name}.token_mixer")
            x = x + self.scale(mixed, f"{name}.layer_scale_1")
            return x + self.scale(
                self.ffn(x, f"{name}.convffn"), f"{name}.layer_scale_2"
            )
        x = self.rep_mixer(x, f"{name}.token_mixer")
        return x + self.scale(self.ffn(x, f"{name}.convffn"), f"{name}.layer_scale")

    def large_kernel(self, x: mx.array, name: str) -> mx.array:
        if self.has(f"{name}.lkb_reparam"):
            return self.conv(x, f"{name}.lkb_reparam", 2)
        out = self.conv_norm(x, f"{name}.lkb_origin", 2)
        if self.has(f"{name}.small_conv"):
            out = out + self.conv_norm(x, f"{name}.small_conv", 2)
        return out

    def part(self, x: mx.array, name: str) -> mx.array:
        """One entry of Apple's flat `network`."""
        if self.has(f"{name}.proj"):
            x = self.large_kernel(x, f"{name}.proj.0")
            x = nn.gelu(self.squeeze_excite(x, f"{name}.proj.0.se"))
            return nn.gelu(self.mobile_one(x, f"{name}.proj.1"))
        if self.has(f"{name}.pe"):
            return x + self.conv(x, f"{name}.pe")
        if self.has(f"{name}.reparam_conv"):
            return self.conv(x, f"{name}.reparam_conv")
        i = 0
        while self.has(f"{name}.{i}"):
            x = self.block(x, f"{name}.{i}")
            i += 1
        return x

    def __call__(self, pixels: mx.array) -> mx.array:
        """(B, R, R, 3) to the last map, (B, H, W, out_dim)."""
        x = pixels
        for i, stride in enumerate((2, 2, 1)):
            x = nn.gelu(self.mobile_one(x, f"patch_embed.{i}", stride))
        i = 0
        while self.has(f"network.{i}"):
            x = self.part(x, f"network.{i}")
            i += 1
        x = self.mobile_one(x, "conv_exp")
        return nn.gelu(self.squeeze_excite(x, "conv_exp.se"))
