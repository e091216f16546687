"""FLOPs against published and hand-made counts; limits and predictions."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from fastvlm_mlx.app.bench import flops, roofline
from fastvlm_mlx.app.bench.flops import Work
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.support.mock_model import MockModel

pytest_plugins = ["tests.support.bfloat16_forms"]

QWEN2 = {  # Qwen2-0.5B, 1.5B, 7B
    0.5: {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14},
    1.5: {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12},
    7: {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28},
}
LAYERS = {0.5: 24, 1.5: 28, 7: 28}


def text(billions: float) -> TextConfig:
    return TextConfig.from_dict(
        {
            **QWEN2[billions],
            "model_type": "qwen2",
            "num_hidden_layers": LAYERS[billions],
            "num_key_value_heads": 4 if billions == 7 else 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": 152064 if billions == 7 else 151936,
        }
    )


def test_the_encoder_by_hand():
    # Counted apart from the code: products of the blocks 425.2, attention 13.7 + 29.0,
    # 7x7 9.1 + 0.6, 3x3 1.6, downsampling 4.8, stem 2.7 GFLOP.
    found = flops.encoder(VisionConfig(), 1024, itemsize=2)
    assert found.flops == pytest.approx(486.7e9, rel=1e-3)
    # All weights are read at least once.
    assert found.bytes > 2 * 125e6


def test_tokens_and_pixels_scale_the_encoder():
    small = flops.encoder(VisionConfig(), 512, itemsize=2)
    large = flops.encoder(VisionConfig(), 1024, itemsize=2)
    # Four times the pixels; attention grows faster.
    assert 4 < large.flops / small.flops < 4.2
    assert flops.encoder(VisionConfig(), 512, 4).bytes == 2 * small.bytes


@pytest.mark.parametrize(("billions", "gflop"), [(0.5, 204), (1.5, 741), (7, 3671)])
def test_prefill(billions, gflop):
    found = flops.prefill(text(billions), 280, itemsize=2)
    assert found.flops / 1e9 == pytest.approx(gflop, rel=2e-3)


def test_prefill_in_two_parts_is_the_same_work():
    whole = flops.prefill(text(0.5), 280, 2).flops
    logits = 2 * 896 * 151936
    parts = flops.prefill(text(0.5), 100, 2).flops - logits
    parts += flops.prefill(text(0.5), 180, 2, cached=100).flops
    assert parts == pytest.approx(whole, rel=1e-9)


def test_decoding_reads_every_weight():
    step = flops.prefill(text(0.5), 1, 2, cached=300)
    assert step.bytes == pytest.approx(2 * 494e6, rel=0.02)  # 494 M, tied


def test_a_limit_is_the_slower_of_the_two():
    speed = roofline.Speed("test", flops=100, bytes=10)
    assert speed.seconds(Work(200, 10)) == 2
    assert speed.seconds(Work(200, 50)) == 5
    found = roofline.limits({"a": Work(200, 10), "b": Work()}, speed, {"a": 4.0})
    assert found["a"]["fraction"] == 0.5 and found["b"]["fraction"] is None


def test_predictions_name_chips_and_stay_below_their_peak():
    config = ModelConfig(VisionConfig(), ProjectorConfig(), text(0.5))
    stages = roofline.stages(config, 1024, 280, 2)
    found = {chip["chip"]: chip for chip in roofline.predictions(stages)}
    # 487 GFLOP at 70% of 2.6 TFLOP/s; decoding 1 GB at 68 GB/s.
    assert found["M1 (8-core GPU)"]["encode"] == pytest.approx(0.267, rel=0.01)
    assert found["M1 (8-core GPU)"]["ttft"] == pytest.approx(0.381, rel=0.01)
    assert found["M1 (8-core GPU)"]["generation_tps"] == pytest.approx(69, rel=0.02)
    assert found["M4 Max (40)"]["ttft"] < found["M4 (10)"]["ttft"]


def test_this_machine_has_a_speed():
    found = roofline.measure(mx.float32)
    assert 1e8 < found.flops < 1e16 and 1e8 < found.bytes < 1e14


def test_products_in_bfloat16_count_where_weights_are_so(monkeypatch):
    monkeypatch.setattr(roofline, "bfloat16_flops", lambda clock: 1e20)
    assert roofline.measure(mx.float32, rounded=True).flops == 1e20
    assert roofline.measure(mx.float32).flops < 1e20


def test_products_in_bfloat16_are_those_of_the_kernels(form):
    found = roofline.bfloat16_flops()
    assert found == 0 if form == "emulated" else 1e9 < found < 1e16


def test_predictions_leave_out_what_kernel_launches_would_rule():
    small = ModelConfig(
        VisionConfig(),
        ProjectorConfig(),
        replace(text(0.5), num_hidden_layers=1, vocab_size=2000),
    )
    assert roofline.predictions(roofline.stages(small, 256, 30, 2)) == []
    encoder = ModelConfig(VisionConfig())
    assert roofline.predictions(roofline.stages(encoder, 256, 30, 2)) != []


def test_a_quantized_weight_is_counted_as_it_is_in_memory():
    model: Any = MockModel().language_model
    assert flops.weight_itemsize(model) == 4

    def fits(_: str, layer: Any) -> bool:
        return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % 32 == 0

    nn.quantize(model, group_size=32, bits=4, class_predicate=fits)
    # 4 bits, and a scale and a bias of float32 for each 32 of them.
    assert flops.weight_itemsize(model) == pytest.approx(0.5 + 8 / 32)
    plain = flops.prefill(text(0.5), 1, 2)
    packed = flops.prefill(text(0.5), 1, 2, weight_itemsize=0.5625)
    assert packed.flops == plain.flops
    assert packed.bytes == pytest.approx(plain.bytes * 0.5625 / 2, rel=0.01)
