"""The reference implementations of FastVLM in PyTorch, at sizes for tests.

The encoder is timm's `fastvit_mci3`, which is FastViTHD; the language model is
transformers' Qwen2; `FastVlmForConditionalGeneration` is transformers' own whole.
Weights are random, from numpy, so that they do not depend on PyTorch's version.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import timm
import torch
from torch import nn
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
)

# <|endoftext|>, <|im_start|>, <|im_end|> and the image token of `FastVlm`.
CONTROL_TOKENS = slice(1536, 1540)


@dataclass(frozen=True)
class Sizes:
    """Depths and widths of the encoder's stages; sizes of the language model."""

    depths: tuple[int, ...] = (1, 2, 2, 1, 1)
    widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 128
    vocab: int = 1600
    tied: bool = True
    fused: bool = True

    @property
    def feature_dim(self) -> int:
        return 2 * self.widths[-1]

    def text_config(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 32768,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
            "tie_word_embeddings": self.tied,
            "use_sliding_window": False,
            "vocab_size": self.vocab,
        }


class Reference(Protocol):
    """A vision-language model in PyTorch; pixels are (1, 3, H, W) in 0..1."""

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of the encoder: (1, tokens, channels), in row-major order."""
        ...

    def embeds(self, pixels: torch.Tensor) -> torch.Tensor:
        """After the projector: (1, tokens, hidden)."""
        ...

    def logits(
        self, pixels: torch.Tensor, before: list[int], after: list[int]
    ) -> torch.Tensor:
        """At every position of the prompt: (1, positions, vocabulary)."""
        ...


class Llava:
    """LLaVA-Qwen2, put together here as Apple's `llava_qwen2` is."""

    def __init__(self, sizes: Sizes, seed: int):
        self.encoder = encoder(sizes, seed)
        hidden = sizes.hidden
        self.projector = nn.Sequential(
            nn.Linear(sizes.feature_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        config = Qwen2Config(**sizes.text_config())
        self.language_model = Qwen2ForCausalLM(config).eval()
        random = np.random.default_rng([seed, 1])
        fill(self.projector, random)
        fill(self.language_model, random)

    @property
    def parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.encoder, self.projector, self.language_model

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder.forward_features(pixels).flatten(2).transpose(1, 2)

    def embeds(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projector(self.features(pixels))

    def logits(
        self, pixels: torch.Tensor, before: list[int], after: list[int]
    ) -> torch.Tensor:
        table = self.language_model.get_input_embeddings()
        left, right = (table(torch.tensor([ids])) for ids in (before, after))
        pieces = torch.cat([left, self.embeds(pixels), right], dim=1)
        return self.language_model(inputs_embeds=pieces).logits


class FastVlm:
    """transformers' `fast_vlm`; the image's place is marked by token `IMAGE`."""

    IMAGE = 1539

    def __init__(self, sizes: Sizes, seed: int):
        config = FastVlmConfig(
            vision_config={
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "do_pooling": True,
                "global_pool": "avg",
                "hidden_size": sizes.feature_dim,
                "model_args": {
                    "inference_mode": sizes.fused,
                    "layers": list(sizes.depths),
                    "embed_dims": list(sizes.widths),
                },
            },
            text_config={"model_type": "qwen2"} | sizes.text_config(),
            image_token_index=self.IMAGE,
            image_seq_length=16,
            tie_word_embeddings=sizes.tied,
        )
        self.model = FastVlmForConditionalGeneration(config).eval()
        random = np.random.default_rng([seed, 1])
        fill(self.model.model.multi_modal_projector, random)
        fill(self.model.model.language_model, random)
        if not sizes.tied:
            fill(self.model.lm_head, random)
        tower = self.model.model.vision_tower.timm_model
        tower.load_state_dict(encoder(sizes, seed).state_dict())

    def config(self) -> dict[str, Any]:
        """config.json, as `save_pretrained` writes it."""
        config = self.model.config.to_diff_dict()
        config["text_config"] |= {"bos_token_id": 1536, "eos_token_id": 1538}
        return config | {
            "architectures": [type(self.model).__name__],
            "dtype": "float32",
        }

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        out = self.model.get_image_features(pixels)
        return out.last_hidden_state.flatten(2).transpose(1, 2)

    def embeds(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixels).pooler_output

    def logits(
        self, pixels: torch.Tensor, before: list[int], after: list[int]
    ) -> torch.Tensor:
        count = (pixels.shape[2] // 64) * (pixels.shape[3] // 64)
        ids = torch.tensor([before + [self.IMAGE] * count + after])
        return self.model(input_ids=ids, pixel_values=pixels).logits


def encoder(sizes: Sizes, seed: int) -> Any:
    """timm's network, with every branch unless `sizes.fused`."""
    network = timm.create_model(
        "fastvit_mci3",
        layers=sizes.depths,
        embed_dims=sizes.widths,
        num_classes=0,
        global_pool="",
    )
    fill(network, np.random.default_rng([seed, 0]))
    if sizes.fused:
        for module in network.modules():
            if hasattr(module, "reparameterize"):
                module.reparameterize()
    return network.eval()


def fill(module: nn.Module, random: np.random.Generator) -> None:
    """Random weights that keep the scale of what passes through, and BatchNorm
    statistics unlike those of a new network."""
    with torch.no_grad():
        # Parameters by object, so that a tied head is filled once, as embeddings.
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not name.endswith("inv_freq"):
                values = _values(name, tuple(tensor.shape), random)
                tensor.copy_(torch.from_numpy(values))


def _values(
    name: str, shape: tuple[int, ...], random: np.random.Generator
) -> np.ndarray:
    if name.endswith("running_var"):
        values = random.uniform(0.3, 2.0, shape)
    elif "embed_tokens" in name or "lm_head" in name:
        values = random.normal(0.0, 0.5, shape)
        # No answer ends of itself: the logits of the control tokens stay small.
        values[CONTROL_TOKENS] *= 0.1
    elif "gamma" in name:
        values = random.normal(0.5, 0.2, shape)
    elif name.endswith("weight") and len(shape) < 2:  # norms
        values = random.normal(1.0, 0.2, shape)
    elif len(shape) < 2:
        values = random.normal(0.0, 0.1, shape)
    else:
        # Images of one another differ little; a sharper stem makes more of that.
        scale = 4.0 if name.startswith("stem.0") else 2.0 if "_proj" in name else 1.0
        values = random.normal(0.0, scale * np.prod(shape[1:]) ** -0.5, shape)
    return values.astype(np.float32)
