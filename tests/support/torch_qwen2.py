"""transformers' Qwen2 of the sizes of a model of ours."""

from typing import Any

from fastvlm_mlx.model.text_config import TextConfig


def qwen2_config(text: TextConfig) -> Any:
    """Its `Qwen2Config`; needs transformers."""
    from transformers import Qwen2Config  # pyright: ignore[reportMissingImports]

    return Qwen2Config(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        rms_norm_eps=text.rms_norm_eps,
        max_position_embeddings=text.max_position_embeddings or 32768,
        rope_parameters={"rope_theta": text.rope_theta, "rope_type": "default"},
        tie_word_embeddings=text.tie_word_embeddings,
    )
