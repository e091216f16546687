"""How FastVLM's publishers name, lay out and describe a checkpoint.

Written from their checkpoints alone: nothing here comes from `fastvlm_mlx`.
"""

import re
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

# timm's names of an encoder's parts, and Apple's.
APPLE_NAMES = (
    (r"^stem\.", "patch_embed."),
    (r"^final_conv\.se\.fc1", "conv_exp.se.reduce"),
    (r"^final_conv\.se\.fc2", "conv_exp.se.expand"),
    (r"^final_conv\.", "conv_exp."),
    (r"\.mlp\.", ".convffn."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.proj\.0\.large_conv\.", ".proj.0.lkb_origin."),
    (r"\.proj\.0\.reparam_conv\.", ".proj.0.lkb_reparam."),
    (r"\.pos_enc\.", ".pe."),
    (r"(layer_scale(_\d)?)\.gamma$", r"\1"),
)
# Where timm's five stages stand in Apple's flat list `network`.
PLACES = {
    "stages.0.blocks": 0,
    "stages.1.downsample": 1,
    "stages.1.blocks": 2,
    "stages.2.downsample": 3,
    "stages.2.blocks": 4,
    "stages.3.downsample": 5,
    "stages.3.pos_emb": 6,
    "stages.3.blocks": 7,
    "stages.4.downsample": 8,
    "stages.4.pos_emb": 9,
    "stages.4.blocks": 10,
}


def apple_encoder(tensors: Arrays) -> Arrays:
    """Under the names of apple/ml-fastvlm's `mobileclip/mci.py`."""
    out: Arrays = {}
    for name, array in tensors.items():
        found = re.match(r"stages\.\d\.[a-z_]+", name)
        if found:
            name = f"network.{PLACES[found[0]]}{name[found.end() :]}"
        for pattern, ours in APPLE_NAMES:
            name = re.sub(pattern, ours, name)
        out[name] = array
    # MobileCLIP's projection into CLIP's space, which FastVLM carries unused.
    width = out["conv_exp.se.expand.bias"].size
    out["head.proj"] = np.eye(width, 768, dtype=np.float32)
    return out


def mlx_encoder(tensors: Arrays) -> Arrays:
    """As mlx-vlm's conversions hold Apple's: channels last, the stem in `blocks`."""
    out: Arrays = {}
    for name, array in apple_encoder(tensors).items():
        if name.endswith("num_batches_tracked"):
            continue
        if "layer_scale" in name:
            array = array.transpose(1, 2, 0)
        elif array.ndim == 4:
            array = array.transpose(0, 2, 3, 1)
        name = name.replace("patch_embed.", "patch_embed.blocks.")
        out[name] = np.ascontiguousarray(array)
    return out


def llava(encoder: Arrays, projector: Arrays, language_model: Arrays) -> Arrays:
    """Apple's release."""
    return {
        **prefixed(language_model, ""),
        **prefixed(apple_encoder(encoder), "model.vision_tower.vision_tower.model."),
        **prefixed(projector, "model.mm_projector."),
    }


def mlx_community(encoder: Arrays, projector: Arrays, language_model: Arrays) -> Arrays:
    """mlx-vlm's conversions."""
    return {
        **prefixed(mlx_encoder(encoder), "vision_tower.vision_model."),
        **prefixed(projector, "mm_projector."),
        **prefixed(language_model, "language_model."),
    }


def prefixed(tensors: Arrays, prefix: str) -> Arrays:
    return {prefix + name: array for name, array in tensors.items()}


def llava_config(sizes: Any, dtype: str) -> dict[str, Any]:
    """Apple's config.json. It says nothing of the encoder's sizes; `mini_fastvithd`
    only documents them here."""
    text = sizes.text_config()
    rope = text.pop("rope_parameters")
    return text | {
        "architectures": ["LlavaQwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1536,
        "eos_token_id": 1538,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "initializer_range": 0.02,
        "max_window_layers": sizes.layers,
        "mini_fastvithd": {
            "embed_dims": list(sizes.widths),
            "layers": list(sizes.depths),
        },
        "mm_hidden_size": sizes.feature_dim,
        "mm_patch_merge_type": "flat",
        "mm_projector_lr": None,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "mobileclip_l_256",
        "model_type": "llava_qwen2",
        "rope_theta": rope["rope_theta"],
        "sliding_window": 32768,
        "tokenizer_model_max_length": 8192,
        "tokenizer_padding_side": "right",
        "torch_dtype": dtype,
        "transformers_version": "4.39.3",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": True,
        "use_cache": True,
        "use_mm_proj": True,
    }


LLAVA_GENERATION = {"do_sample": True, "temperature": None, "top_p": None}
HF_GENERATION = {"bos_token_id": 1536, "eos_token_id": 1538, "use_cache": True}
