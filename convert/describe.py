"""What a checkpoint is, as our `ModelConfig`: the rivals' configs, read.

Sizes come from the tensors wherever they can; a config only supplies what leaves no
trace in them (attention heads, rope, the picture's preparation).
"""

import math
import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.config import TEXT_MODELS, ProjectorConfig, VisionConfig, read_json
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.tensors import Tensors

# What mlx-lm's Qwen2 and Llama read; the rest of a config is training's.
TEXT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "rope_traditional",
    "rope_scaling",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
REQUIRED = TEXT_FIELDS[:4] + ("rms_norm_eps",)


def text_config(config: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The arguments of the mlx-lm model that holds `language_model.*` tensors.

    Args:
        config: the checkpoint's `config.json`.
        tensors: the language model's, after `tie_embeddings`.
    Raises:
        CheckpointError: a value is missing, or contradicts the tensors.
    """
    text = config.get("text_config") or config
    found: dict[str, Any] = {"model_type": _text_model(config)}
    found |= {k: text[k] for k in TEXT_FIELDS if text.get(k) is not None}
    rope = text.get("rope_parameters") or {}  # transformers 5 moved the base there
    found.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    if rope.get("rope_type", "default") != "default":
        found["rope_scaling"] = rope
    for name in REQUIRED:
        value = found.get(name)
        if not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(
                f"config.json: {name} is {value!r}; the language model needs a number"
            )
    found.setdefault("num_key_value_heads", found["num_attention_heads"])
    layers = 1 + max(
        (int(m[1]) for n in tensors if (m := re.search(r"\.layers\.(\d+)\.", n))),
        default=-1,
    )
    if layers != found["num_hidden_layers"]:
        raise CheckpointError(
            f"config.json: num_hidden_layers is {found['num_hidden_layers']}, but the"
            f" checkpoint holds {layers}; the two do not belong together"
        )
    embedding = tensors.get("language_model.model.embed_tokens.weight")
    if embedding is None:
        raise CheckpointError(
            "tensor language_model.model.embed_tokens.weight is missing;"
            " the checkpoint is incomplete"
        )
    found["vocab_size"] = embedding.shape[0]
    found["tie_word_embeddings"] = "language_model.lm_head.weight" not in tensors
    return found


def _text_model(config: dict[str, Any]) -> str:
    text = config.get("text_config") or {}
    told = f"{text.get('model_type', '')} {config.get('model_type', '')}".lower()
    architectures = config.get("architectures")
    told += " ".join(architectures if isinstance(architectures, list) else []).lower()
    # LLaVA calls its Llama variants plain "llava" or "llava_llama".
    for model in TEXT_MODELS:
        if model in told:
            return model
    if "llava" in told:
        return "llama"
    raise CheckpointError(
        f"config.json: model_type {config.get('model_type')!r} is not a FastVLM;"
        " known language models are Qwen2 and Llama"
    )


def tie_embeddings(tensors: Tensors) -> None:
    """Drops an output head that equals the embedding; mends what configs get wrong.

    The tensors decide: a head that is there and differs is used, whatever the config
    says (released configs are known to say otherwise).
    """
    head, embedding = (
        {
            field: tensors[f"language_model.{name}.{field}"]
            for field in ("weight", "scales", "biases")
            if f"language_model.{name}.{field}" in tensors
        }
        for name in ("lm_head", "model.embed_tokens")
    )
    same = head.keys() == embedding.keys() and all(
        head[field].shape == embedding[field].shape
        and head[field].dtype == embedding[field].dtype
        and bool(mx.array_equal(head[field], embedding[field]).item())
        for field in head
    )
    if head and same:
        for field in head:
            del tensors[f"language_model.lm_head.{field}"]


def projector(tensors: Tensors) -> tuple[Tensors, ProjectorConfig]:
    """Renumbers `projector.N.*` as `projector.layers.I.*` and reads the widths.

    Published numberings leave gaps for the GELUs between (0 and 2; 1 and 2).
    """
    numbers = sorted(
        {int(m[1]) for n in tensors if (m := re.match(r"projector\.(\d+)\.", n))}
    )
    order = {f"projector.{n}": f"projector.layers.{i}" for i, n in enumerate(numbers)}
    order["projector"] = "projector.layers.0"  # `linear` has no number
    out: Tensors = {}
    for name, value in tensors.items():
        prefix, field = name.rsplit(".", 1)
        if prefix not in order:
            raise CheckpointError(
                f"tensor {name} has no place in a projector; the checkpoint is of"
                " another model"
            )
        out[f"{order[prefix]}.{field}"] = value
    weights = [
        out[f"projector.layers.{i}.weight"]
        for i in range(max(1, len(numbers)))
        if f"projector.layers.{i}.weight" in out
    ]
    if not weights:
        return out, ProjectorConfig("identity", ())
    dims = (weights[0].shape[1], *(weight.shape[0] for weight in weights))
    return out, ProjectorConfig("mlp" if len(weights) > 1 else "linear", dims)


def image_settings(config: dict[str, Any], vision: VisionConfig | None) -> dict:
    """The picture's preparation: `image_size`, `fit` and `grid_pinpoints`."""
    stride = vision.stride if vision else 64
    told = re.search(r"_(\d+)$", str(config.get("mm_vision_tower", "")))
    if isinstance(config.get("image_size"), int):
        size = config["image_size"]
    elif told:
        size = int(told[1])
    elif config.get("image_seq_length"):
        size = math.isqrt(config["image_seq_length"]) * stride
    else:
        size = 1024
    if size <= 0 or size % stride:
        raise CheckpointError(
            f"config.json: the picture's size {size} is not a multiple of {stride}"
        )
    pinpoints = config.get("image_grid_pinpoints")
    return {
        "image_size": size,
        "fit": "stretch"
        if config.get("image_aspect_ratio") in ("square", "stretch")
        else "pad",
        "grid_pinpoints": tuple(map(tuple, pinpoints))
        if isinstance(pinpoints, list)
        else (),
    }


def context_length(config: dict[str, Any], folder: Path, text: dict[str, Any]) -> int:
    """Tokens that a conversation may hold: the smaller of what the language model was
    built for and what the checkpoint was tuned with."""
    limits = [text.get("max_position_embeddings", 32768)]
    limits.append(config.get("tokenizer_model_max_length"))
    if (folder / "tokenizer_config.json").exists():
        limits.append(
            read_json(folder / "tokenizer_config.json").get("model_max_length")
        )
    # Tokenizers without a limit carry 1e30.
    return min(n for n in limits if isinstance(n, int) and 0 < n < 10**9)
