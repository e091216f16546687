"""Each fold against the train form, with random BatchNorm statistics."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fastvlm_mlx.convert.fold import fold_encoder as folding
from fastvlm_mlx.convert.fold import reparam
from fastvlm_mlx.convert.fold.reparam import BatchNorm, Conv
from fastvlm_mlx.convert.fold.tensor_tree import TensorReader
from fastvlm_mlx.errors import CheckpointError
from tests.support.assert_close import assert_close
from tests.support.train_form_encoder import TrainFormEncoder

# Of the standard deviation: float32 sums in another order.
LIMIT = 2e-5
DIM = 6


class Parts:
    """Random tensors of one part, by Apple's names for the unfolded computation and
    by timm's for the fold."""

    APPLE = {"conv_kxk": "rbr_conv", "conv_scale": "rbr_scale", "identity": "rbr_skip"}

    def __init__(self, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.timm: dict[str, mx.array] = {}

    def put(self, name: str, *shape: int, low: float = -1.0, high: float = 1.0):
        values = self.random.uniform(low, high, shape).astype(np.float32)
        self.timm[f"part.{name}"] = mx.array(values)

    def batch_norm(self, name: str, dim: int = DIM) -> "Parts":
        for field in ("weight", "bias", "running_mean"):
            self.put(f"{name}.{field}", dim)
        self.put(f"{name}.running_var", dim, low=0.05, high=4.0)
        return self

    def conv_norm(self, name: str, *shape: int) -> "Parts":
        self.put(f"{name}.conv.weight", *shape)
        return self.batch_norm(f"{name}.bn", shape[0])

    def fold_side(self) -> TensorReader:
        return TensorReader(self.timm, "part.")

    def train_form(self) -> TrainFormEncoder:
        apple = {}
        for name, value in self.timm.items():
            for timm, original in self.APPLE.items():
                name = name.replace(f".{timm}.", f".{original}.")
            apple[name.replace("layer_scale.gamma", "layer_scale")] = value
        return TrainFormEncoder(apple)


def batch_norm(dim: int, seed: int = 0) -> BatchNorm:
    parts = Parts(seed).batch_norm("bn", dim)
    return parts.fold_side().child("bn").batch_norm(dim)


def apply_norm(x: mx.array, norm: BatchNorm) -> mx.array:
    """As PyTorch computes it: subtract, divide, scale, shift."""
    x = (x - norm.running_mean) / mx.sqrt(norm.running_var + 1e-5)
    return x * norm.weight + norm.bias


def apply_conv(x: mx.array, conv: Conv, stride: int = 1) -> mx.array:
    """`conv` in PyTorch's layout on `x` (B, H, W, C); groups by its inputs."""
    weight = conv.weight.transpose(0, 2, 3, 1)
    groups = x.shape[-1] // weight.shape[-1]
    padding = weight.shape[1] // 2
    return mx.conv2d(x, weight, stride, padding, groups=groups) + conv.bias


def image(dim: int = DIM, seed: int = 9) -> mx.array:
    shape = (2, 8, 8, dim)
    values = np.random.default_rng(seed).normal(0.3, 1, shape)
    return mx.array(values.astype(np.float32))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("out", "groups"), [(DIM, 1), (DIM, DIM), (2 * DIM, DIM)])
def test_batch_norm_folds_into_the_convolution_before(out: int, groups: int, bias):
    weight = mx.random.normal((out, DIM // groups, 3, 3), key=mx.random.key(1))
    shift = mx.random.normal((out,), key=mx.random.key(2)) if bias else None
    norm = batch_norm(out)
    plain = Conv(weight, mx.zeros(out) if shift is None else shift)
    wanted = apply_norm(apply_conv(image(), plain), norm)
    folded = reparam.fold_batch_norm(weight, norm, shift)
    assert_close("conv+BN", apply_conv(image(), folded), wanted, LIMIT)


def test_batch_norm_survives_tiny_and_huge_variances():
    norm = batch_norm(DIM)._replace(running_var=mx.array([0, 1e-9, 1e-5, 1, 1e3, 1e4]))
    weight = mx.random.normal((DIM, 1, 3, 3), key=mx.random.key(1))
    wanted = apply_norm(apply_conv(image(), Conv(weight, mx.zeros(DIM))), norm)
    folded = apply_conv(image(), reparam.fold_batch_norm(weight, norm))
    for channel in range(DIM):
        name = f"channel {channel}"
        assert_close(name, folded[..., channel], wanted[..., channel], 1e-4)


@pytest.mark.parametrize("shape", [(DIM, 1, 3, 3), (DIM, DIM, 3, 3), (DIM, 2, 5, 5)])
def test_identity_kernel_leaves_its_input(shape: tuple[int, ...]):
    kernel = Conv(reparam.identity_kernel(shape), mx.zeros(DIM))
    assert mx.array_equal(apply_conv(image(), kernel), image())


def test_skip_folds_into_a_kernel():
    norm = batch_norm(DIM)
    for inputs in (1, DIM):
        folded = reparam.fold_skip(norm, (DIM, inputs, 3, 3))
        wanted = apply_norm(image(), norm)
        assert_close("skip", apply_conv(image(), folded), wanted, LIMIT)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize(("inputs", "kernel"), [(1, 3), (DIM, 3), (DIM, 1)])
def test_mobile_one(skip: bool, scale: bool, branches: int, inputs: int, kernel: int):
    parts = Parts(seed=branches)
    for i in range(branches):
        parts.conv_norm(f"conv_kxk.{i}", DIM, inputs, kernel, kernel)
    if scale:
        parts.conv_norm("conv_scale", DIM, inputs, 1, 1)
    if skip:
        parts.batch_norm("identity")
    folded = folding.fold_mobile_one(parts.fold_side())
    assert folded.weight.shape == (DIM, inputs, kernel, kernel)
    wanted = parts.train_form().mobile_one(image(), "part")
    assert_close("MobileOne", apply_conv(image(), folded), wanted, LIMIT)


def test_mobile_one_of_stride_2_and_several_outputs_per_channel():
    parts = Parts().conv_norm("conv_kxk.0", 2 * DIM, 1, 3, 3)
    parts.conv_norm("conv_scale", 2 * DIM, 1, 1, 1)
    folded = folding.fold_mobile_one(parts.fold_side())
    wanted = parts.train_form().mobile_one(image(), "part", 2)
    assert_close("stride 2", apply_conv(image(), folded, 2), wanted, LIMIT)


@pytest.mark.parametrize("layer_scale", [False, True])
def test_rep_mixer(layer_scale: bool):
    parts = Parts().conv_norm("mixer.conv_kxk.0", DIM, 1, 3, 3)
    parts.conv_norm("mixer.conv_scale", DIM, 1, 1, 1)
    parts.batch_norm("mixer.identity").batch_norm("norm.identity")
    if layer_scale:
        parts.put("layer_scale.gamma", DIM, 1, 1)
    folded = folding.fold_token_mixer(parts.fold_side())
    wanted = parts.train_form().rep_mixer(image(), "part")
    assert_close("RepMixer", apply_conv(image(), folded), wanted, LIMIT)


@pytest.mark.parametrize("small", [None, 3, 5])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_large_kernel(small: int | None, multiplier: int):
    out = multiplier * DIM
    parts = Parts().conv_norm("large_conv", out, 1, 7, 7)
    if small is not None:
        parts.conv_norm("small_conv", out, 1, small, small)
    parts.timm |= {
        name.replace("large_conv", "lkb_origin"): value
        for name, value in parts.timm.items()
    }
    folded = folding.fold_large_kernel(parts.fold_side())
    wanted = parts.train_form().large_kernel(image(), "part")
    assert_close("large kernel", apply_conv(image(), folded, 2), wanted, LIMIT)


def test_position_encoding():
    parts = Parts()
    parts.put("pos_enc.weight", DIM, 1, 7, 7)
    parts.put("pos_enc.bias", DIM)
    folded = folding.fold_position_encoding(parts.fold_side())
    conv = Conv(parts.timm["part.pos_enc.weight"], parts.timm["part.pos_enc.bias"])
    wanted = image() + apply_conv(image(), conv)
    assert_close("RepCPE", apply_conv(image(), folded), wanted, LIMIT)


@pytest.mark.parametrize("shape", [(DIM, 4), (DIM, 4, 1, 1)])
def test_layer_scale_folds_into_the_layer_before(shape: tuple[int, ...]):
    weight = mx.random.normal(shape, key=mx.random.key(3))
    bias = mx.random.normal((DIM,), key=mx.random.key(4))
    scale = mx.random.normal((DIM, 1, 1), key=mx.random.key(5))
    folded = reparam.fold_layer_scale(weight, bias, scale)
    x, flat = image(4), (DIM, 4)
    wanted = scale.reshape(-1) * (x @ weight.reshape(flat).T + bias)
    given = x @ folded.weight.reshape(flat).T + folded.bias
    assert_close("layer scale", given, wanted, LIMIT)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_and_batch_norm_fold_into_qkv(bias: bool):
    weight = mx.random.normal((3 * DIM, DIM), key=mx.random.key(6))
    shift = mx.random.normal((3 * DIM,), key=mx.random.key(7)) if bias else None
    after = mx.zeros(3 * DIM) if shift is None else shift
    norm = batch_norm(DIM)

    folded = reparam.fold_input_affine(weight, shift, *norm.affine())
    wanted = apply_norm(image(), norm) @ weight.T + after
    given = image() @ folded.weight.T + folded.bias
    assert_close("BatchNorm into qkv", given, wanted, LIMIT)

    layer_norm = nn.LayerNorm(DIM, eps=1e-5)
    layer_norm.weight, layer_norm.bias = norm.weight, norm.bias
    folded = reparam.fold_input_affine(weight, shift, norm.weight, norm.bias)
    wanted = layer_norm(image()) @ weight.T + after
    plain = mx.fast.layer_norm(image(), None, None, 1e-5)
    given = plain @ folded.weight.T + folded.bias
    assert_close("LayerNorm's affine into qkv", given, wanted, LIMIT)


def test_folds_of_half_precision_are_computed_in_float32():
    norm = BatchNorm(*(a.astype(mx.bfloat16) for a in batch_norm(DIM)))
    weight = mx.random.normal((DIM, 1, 3, 3), dtype=mx.bfloat16, key=mx.random.key(8))
    folded = reparam.fold_batch_norm(weight, norm)
    exact = BatchNorm(*(a.astype(mx.float32) for a in norm))
    wanted = reparam.fold_batch_norm(weight.astype(mx.float32), exact)
    assert folded.weight.dtype == mx.float32
    assert mx.array_equal(folded.weight, wanted.weight)
    assert mx.array_equal(folded.bias, wanted.bias)


def test_folded_parts_pass_through():
    parts = Parts()
    parts.put("reparam_conv.weight", DIM, 1, 3, 3)
    parts.put("reparam_conv.bias", DIM)
    for fold in (
        folding.fold_mobile_one,
        folding.fold_token_mixer,
        folding.fold_large_kernel,
        folding.fold_position_encoding,
    ):
        conv = fold(parts.fold_side())
        assert mx.array_equal(conv.weight, parts.timm["part.reparam_conv.weight"])
        assert mx.array_equal(conv.bias, parts.timm["part.reparam_conv.bias"])


@pytest.mark.parametrize(("small", "size"), [(5, 3), (2, 3)])
def test_kernels_that_have_no_common_centre_are_refused(small: int, size: int):
    with pytest.raises(CheckpointError, match=f"^a {small} x {small} kernel cannot"):
        reparam.pad_kernel(mx.zeros((1, 1, small, small)), size)
