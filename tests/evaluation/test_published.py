"""Apple's figures (`fastvlm_mlx/evaluation/published.py`)."""

import pytest

from fastvlm_mlx.evaluation.published import model_size, published_figure


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("FastVLM-0.5B", "0.5b"),
        ("0.5b", "0.5b"),
        ("apple/FastVLM-1.5B", "1.5b"),
        ("apple/FastVLM-7B-int4", "7b"),
        ("models/FastVLM-0.5B/", "0.5b"),
        ("checkpoints/llava-fastvithd_7b_stage3", "7b"),
        ("llava-fastvithd_1.5b_stage2", None),  # figures are of stage 3
        ("FastVLM-7B/FastVLM-0.5B-4bit", "0.5b"),
        ("demo", None),
        ("Qwen/Qwen2.5-VL-7B", None),
        ("FastVLM-70B", None),
        ("FastVLM-7Big", None),
    ],
)
def test_sizes_by_name(name: str, size: str | None):
    assert model_size(name) == size


def test_figures():
    assert published_figure("apple/FastVLM-0.5B", "textvqa") == 64.5
    assert published_figure("apple/FastVLM-1.5B", "ocrbench") == 70.2
    assert published_figure("apple/FastVLM-7B", "scienceqa") == 96.7
    assert published_figure("apple/FastVLM-7B", "own") is None
    assert published_figure("demo", "textvqa") is None
