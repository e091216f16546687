"""The memory of an iPhone: what is counted, and who is warned."""

import pytest

from fastvlm_mlx.convert.ios_memory import MemoryEstimate, estimate_memory
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.convert.test_to_ios import TEXT

MB = 1_000_000


def test_the_peak_is_the_sum():
    estimate = MemoryEstimate(1000 * MB, 200 * MB, 30 * MB, 4 * MB)
    assert estimate.app == 200 * MB and estimate.peak == 1434 * MB
    assert str(estimate) == (
        "1.4 GB at the peak, estimated (language model 1.0 GB, encoder 200.0 MB,"
        " encoder's maps 30.0 MB, KV cache 4.0 MB, app 200.0 MB)"
    )


@pytest.mark.parametrize(
    ("peak", "lines"),
    [
        (2000 * MB, []),
        (2000 * MB + 1, ["4 GB: needs"]),
        (2640 * MB, ["4 GB: needs"]),
        (2640 * MB + 1, ["4 GB: above"]),
        (3000 * MB + 1, ["4 GB: above", "6 GB: needs"]),
        (3960 * MB + 1, ["4 GB: above", "6 GB: above"]),
        (5280 * MB + 1, ["4 GB: above", "6 GB: above", "8 GB: above"]),
        (
            7920 * MB + 1,
            ["4 GB: above", "6 GB: above", "8 GB: above", "12 GB: above"],
        ),
    ],
)
def test_who_is_warned(peak, lines):
    found = MemoryEstimate(0, 0, peak, 0, app=0).warnings()
    said = []
    for line in found:
        phone = line.partition(" (")[0]
        assert ("use --q-bits 4 or a smaller model" in line) is ("can get" in line)
        assert ("is above the" in line) is not ("entitlement" in line)
        said.append(f"{phone}: {'needs' if 'entitlement' in line else 'above'}")
    assert said == lines


def test_a_warning_says_how_much():
    assert MemoryEstimate(0, 0, 2500 * MB, 0, app=0).warnings() == [
        "4 GB (iPhone 12, 13): 2.5 GB needs the increased-memory-limit entitlement"
        " (above 2.0 GB)"
    ]


@pytest.mark.parametrize(
    ("mixers", "resolution", "activations"),
    [
        # The maps of the first stage, before and after GELU, in two bytes each.
        (("repmixer", "repmixer", "repmixer"), 256, 4 * 64 * 64 * 8),
        # 16 x 16 positions that attend to each other, in two heads, twice two bytes.
        (("repmixer", "repmixer", "attention"), 256, 4 * 2 * 16**4),
        (("repmixer", "attention", "attention"), 256, 4 * 1 * 32**4),
        (("repmixer", "attention", "attention"), 128, 4 * 1 * 16**4),
    ],
)
def test_the_largest_maps(mixers, resolution, activations):
    vision = VisionConfig(
        depths=(1, 1, 1),
        embed_dims=(32, 32, 64),
        mlp_dims=(8, 8, 8),
        token_mixers=mixers,
        pos_emb_kernels=(0, 0, 0),
        downsample_se_dims=(0, 0, 0),
    )
    config = ModelConfig(vision=vision, text=TEXT)
    estimate = estimate_memory(config, 11, 22, resolution)
    assert estimate.activations == activations
    assert (estimate.language_model, estimate.encoder) == (11, 22)
    positions = (resolution // 16) ** 2 + 512
    width = TEXT.num_key_value_heads * TEXT.head_dim
    assert estimate.cache == 4 * TEXT.num_hidden_layers * width * positions
