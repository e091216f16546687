"""The whole demo model, and its checkpoint in the layout of Apple's training code."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from training import language
from training.encoder import EncoderConfig, FastViTHD

PREFIX = "model.vision_tower.vision_tower.model."
# LLaVA's connector is as wide inside as the language model. Ours is narrow, and a token
# must tell 36 characters, nine colours and four squares apart.
INNER = 1024
IMAGE_SIZE = 256


class DemoFastVLM(nn.Module):
    """Encoder, connector (two layers with GELU) and language model."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = FastViTHD(config).to(memory_format=torch.channels_last)
        self.language = language.language_model(tokenizer)
        hidden = self.language.config.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(config.output_dim, INNER), nn.GELU(), nn.Linear(INNER, hidden)
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor under Apple's name; the head is tied and not written."""
        named = {PREFIX + k: v for k, v in self.encoder.state_dict().items()}
        for key, value in self.projector.state_dict().items():
            named["model.mm_projector." + key] = value
        for key, value in self.language.state_dict().items():
            if not key.startswith("lm_head."):
                named[key] = value
        return {k: v.detach().clone().contiguous() for k, v in named.items()}

    def load_tensors(self, named: dict[str, torch.Tensor]) -> None:
        """The inverse of `tensors`; every name must match."""
        cut = {"encoder.": {}, "projector.": {}, "language.": {}}
        for key, value in named.items():
            if key.startswith(PREFIX):
                cut["encoder."][key.removeprefix(PREFIX)] = value
            elif key.startswith("model.mm_projector."):
                cut["projector."][key.removeprefix("model.mm_projector.")] = value
            else:
                cut["language."][key] = value
        self.encoder.load_state_dict(cut["encoder."])
        self.projector.load_state_dict(cut["projector."])
        text = cut["language."]
        text["lm_head.weight"] = text["model.embed_tokens.weight"]
        self.language.load_state_dict(text)

    def config(self) -> dict:
        """config.json as LLaVA-Qwen2 writes it, with the multi-scale keys of ours."""
        text, vision = self.language.config, self.encoder.config
        rope = text.rope_parameters["rope_theta"]
        out = {
            "architectures": ["LlavaQwen2ForCausalLM"],
            "model_type": "llava_qwen2",
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "image_aspect_ratio": "pad",
            "image_grid_pinpoints": None,
            "image_size": IMAGE_SIZE,
            "initializer_range": text.initializer_range,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": text.max_position_embeddings,
            "mm_hidden_size": vision.output_dim,
            "mm_patch_merge_type": "flat",
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": f"mobileclip_l_{IMAGE_SIZE}",
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": rope,
            "tie_word_embeddings": True,
            "tokenizer_model_max_length": text.max_position_embeddings,
            "tokenizer_padding_side": "right",
            "torch_dtype": "float32",
            "unfreeze_mm_vision_tower": True,
            "use_cache": True,
            "use_mm_proj": True,
            "use_sliding_window": False,
            "vocab_size": text.vocab_size,
        }
        if vision.multi_scale:
            out["mm_multi_scale"] = vision.multi_scale
            out["mm_multi_scale_stages"] = list(vision.multi_scale_stages)
        return out

    def save(self, folder: Path) -> None:
        """Write the checkpoint folder: weights, configs and tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config(), indent=2) + "\n")
        generation = {"do_sample": False, "temperature": None, "top_p": None}
        (folder / "generation_config.json").write_text(json.dumps(generation) + "\n")
        language.save_tokenizer(self.tokenizer, folder)
