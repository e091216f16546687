"""Compressed weights: error, bit packing and warnings."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastvlm_mlx.convert.coreml.mil_operations import OPERATIONS
from fastvlm_mlx.convert.coreml.mil_rounding import no_rounding
from fastvlm_mlx.convert.coreml.mil_weights import Weights, pack_bits
from fastvlm_mlx.convert.coreml.mlpackage import unpack_bits
from fastvlm_mlx.convert.weight_compression import palettize, quantize
from fastvlm_mlx.coreml_encoder import import_coremltools

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def coremltools():
    pytest.importorskip("coremltools")
    return import_coremltools()


def kernel(out: int = 48, inputs: int = 64) -> np.ndarray:
    return RANDOM.standard_normal((out, inputs, 1, 1)).astype(np.float16)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_bits_are_packed_and_unpacked(bits: int):
    indices = RANDOM.integers(0, 2**bits, (5, 7)).astype(np.uint8)
    packed = pack_bits(indices, bits)
    assert packed.size == -(-35 * bits // 8)
    np.testing.assert_array_equal(unpack_bits(packed, bits, (5, 7)), indices)


def test_bits_run_on_from_the_lowest():
    # MIL's own example: indices 0, 3, 2, 1 and 3 of two bits
    packed = pack_bits(np.array([0, 3, 2, 1, 3], np.uint8), 2)
    assert packed.tolist() == [0b01101100, 0b11]


@pytest.mark.parametrize("block", [None, 32])
def test_int8_is_within_half_a_step(block: int | None):
    array = kernel()
    data, scale = quantize(array, block)
    assert scale.shape == (48, 64 // (block or 64), 1, 1)
    restored = OPERATIONS["constexpr_blockwise_shift_scale"](
        {"data": data, "scale": scale}, no_rounding
    )
    step = np.repeat(scale, block or 64, 1)
    assert np.all(np.abs(restored - array.astype(np.float32)) <= 0.51 * step)
    if block is None:  # iOS 17's form of the same
        flat = OPERATIONS["constexpr_affine_dequantize"](
            {
                "quantized_data": data,
                "zero_point": np.int8(0),
                "scale": scale.reshape(-1),
                "axis": np.int32(0),
            },
            no_rounding,
        )
        np.testing.assert_array_equal(flat, restored)


@pytest.mark.parametrize("block", [None, 32])
def test_int8_uses_all_its_steps(block: int | None):
    """The largest weight of each group is 127 or -127 steps, and none is -128."""
    data, scale = quantize(kernel(), block)
    groups = data.reshape(48, -1, block or 64).astype(int)
    assert np.all(np.abs(groups).max(axis=2) == 127)


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.01), (6, 0.04)])
def test_palettes_fit(bits: int, limit: float):
    array = kernel(128, 256)
    palette, indices = palettize(array, bits)
    assert palette.shape == (2**bits,) and np.all(np.diff(palette) >= 0)
    error = palette[indices].astype(np.float32) - array.astype(np.float32)
    assert np.sqrt(np.mean(error**2)) < limit  # of a standard deviation of 1


def test_a_palette_of_few_values_is_exact():
    array = RANDOM.choice(np.array([-1, 0.25, 3], np.float16), (16, 16, 1, 1))
    palette, indices = palettize(array, 6)
    np.testing.assert_array_equal(palette[indices], array)


def test_weights_that_float16_cannot_hold_are_named():
    weights = Weights("float16", None, modern=False)
    array = np.ones((4, 4, 1, 1), np.float32)
    array[0, 0] = 1e6
    weights._cast(array, "stem_weight")
    weights._cast(np.full((10, 10), 1e-9, np.float32), "tiny")
    weights._cast(np.ones((10, 10), np.float32), "fine")
    assert weights.warnings == [
        "stem_weight: 1 of 16 weights overflow float16 (largest 1e+06); use float32",
        "tiny: 100 of 100 weights vanish in float16",
    ]


@pytest.mark.parametrize(
    ("compression", "shape", "scales"),
    [
        ("int8-block", (48, 64, 1, 1), (48, 2, 1, 1)),
        ("int8-block", (33, 32, 1, 1), (33, 1, 1, 1)),
        ("int8-block", (64, 48, 1, 1), (64, 1, 1, 1)),  # blocks would not tile it
        ("int8", (48, 64, 1, 1), (48, 1, 1, 1)),
    ],
)
def test_blocks_tile_the_input_channels(compression, shape, scales):
    weights = Weights("float16", compression, modern=True)
    made: list[dict[str, np.ndarray]] = []
    weights.builder = SimpleNamespace(
        constexpr_blockwise_shift_scale=lambda **values: made.append(values)
    )
    weights.pointwise(RANDOM.standard_normal(shape), "fc")
    (values,) = made
    assert values["data"].shape == shape and values["scale"].shape == scales


def test_other_forms_do_not_mind_the_channels():
    for compression in (None, "palette6"):
        weights = Weights("float16", compression, modern=False)
        weights.builder = SimpleNamespace(
            const=lambda **values: "plain", constexpr_lut_to_dense=lambda **v: "palette"
        )
        made = weights.pointwise(RANDOM.standard_normal((4, 5, 1, 1)), "fc")
        assert made == ("palette" if compression else "plain")


def test_too_few_packed_bytes():
    packed = np.zeros(2, np.uint8)
    assert unpack_bits(packed, 4, (4,)).tolist() == [0] * 4
    with pytest.raises(ValueError, match="2 bytes for 5 values of 4 bits"):
        unpack_bits(packed, 4, (5,))
    with pytest.raises(ValueError, match="2 bytes for 17 values of 1 bits"):
        unpack_bits(packed, 1, (17,))
