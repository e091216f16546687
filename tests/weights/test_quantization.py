"""Quantized layers: made, undone, and refused when config and tensors disagree."""

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.weights.quantization import (
    BITS,
    GROUP_SIZES,
    check_packing,
    dequantized,
    is_quantized,
    layer_settings,
    quantized,
    unpacked_shape,
)
from fastvlm_mlx.weights.weight_files import Tensors

LAYER = "language_model.model.layers.0.mlp.up_proj"


def tensors(width: int = 128) -> Tensors:
    key = mx.random.key(0)
    return {
        f"{LAYER}.weight": mx.random.normal((8, width), key=key),
        f"{LAYER}.bias": mx.ones(8),
        "language_model.model.norm.weight": mx.ones(width),
        "projector.layers.0.weight": mx.ones((4, width)),
        "vision_tower.stages.0.blocks.0.mlp.fc1.weight": mx.ones((4, width)),
    }


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_round_trip(bits: int, group_size: int):
    settings = {"bits": bits, "group_size": group_size}
    packed = quantized(tensors(), bits, group_size)
    assert is_quantized(packed) and not is_quantized(tensors())
    # Only the language model's matrices are packed.
    assert {name for name in packed if name.endswith(".scales")} == {f"{LAYER}.scales"}
    assert packed[f"{LAYER}.weight"].shape == (8, 128 * bits // 32)
    check_packing(packed, settings)
    assert unpacked_shape(packed, f"{LAYER}.weight", settings) == (8, 128)
    assert unpacked_shape(packed, f"{LAYER}.bias", settings) == (8,)

    restored, original = dequantized(packed, settings), tensors()
    assert restored.keys() == original.keys()
    for name, array in original.items():
        step = 6 / (2**bits - 1) if name == f"{LAYER}.weight" else 1e-9
        assert mx.abs(restored[name] - array).max() <= step, name


def test_dtype_of_what_is_restored():
    packed = quantized(tensors(), 4, 32)
    restored = dequantized(packed, {"bits": 4, "group_size": 32}, mx.bfloat16)
    assert restored[f"{LAYER}.weight"].dtype == mx.bfloat16


def test_a_width_that_no_group_divides():
    with pytest.raises(OptionError, match=r"^--q-group-size 64: .* 96; use 32$"):
        quantized(tensors(96), 4, 64)
    with pytest.raises(OptionError, match="width 40; use no quantization$"):
        quantized(tensors(40), 4, 32)


def test_settings_of_one_layer():
    settings = {"bits": 4, "group_size": 64, "a": {"bits": 8}, "b": True}
    assert layer_settings(settings, "a") == (64, 8)
    assert layer_settings(settings, "b") == (64, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "no quantization settings, but .* is quantized; get the right"),
        ({"bits": 4}, "no quantization settings"),
        ({"bits": 8, "group_size": 32}, "not quantized with 8 bits in groups of 32"),
        ({"bits": 4, "group_size": 64}, "not quantized with 4 bits in groups of 64"),
        ({"bits": 7, "group_size": 32}, "bits 7 and group_size 32, which MLX"),
        ({"bits": 4.0, "group_size": 32}, "bits 4.0 and group_size 32, which MLX"),
        ({"bits": 4, "group_size": 32, "mode": "nvfp4"}, "mode 'nvfp4' is not"),
    ],
)
def test_settings_that_cannot_be_honoured(settings: dict | None, message: str):
    packed = quantized(tensors(), 4, 32)
    with pytest.raises(CheckpointError, match=message):
        dequantized(packed, settings)


@pytest.mark.parametrize("field", ["weight", "biases"])
def test_a_layer_must_be_whole(field: str):
    packed = quantized(tensors(), 4, 32)
    del packed[f"{LAYER}.{field}"]
    with pytest.raises(CheckpointError, match=f"up_proj.{field} is missing"):
        check_packing(packed, {"bits": 4, "group_size": 32})


def test_other_packings_are_told_by_their_shapes():
    """Twice the bits in half the groups has consistent shapes, of another width."""
    packed = quantized(tensors(), 4, 64)
    settings = {"bits": 8, "group_size": 32}
    check_packing(packed, settings)
    assert unpacked_shape(packed, f"{LAYER}.weight", settings) == (8, 64)
