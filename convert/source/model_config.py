"""Builds the parts of our ModelConfig from another project's config.json and tensors.

Sizes are read from the tensors. The config supplies what no tensor tells: attention
heads, rope, the context length; `image_config.py` reads how images are prepared.
"""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.validation import MAX_LAYERS, check_choice
from fastvlm_mlx.model.vision_config import MULTI_SCALE
from fastvlm_mlx.weights.weight_files import Tensors

# The fields that mlx-lm's Qwen2 and Llama read; the others matter in training only.
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

# By `model_type`; LLaVA calls its Llama variants plain "llava" or "llava_llama".
MODEL_TYPES = {
    "qwen2": "qwen2",
    "llava_qwen2": "qwen2",
    "llava_qwen": "qwen2",
    "fast_vlm": "qwen2",
    "fastvlm": "qwen2",
    "llama": "llama",
    "llava": "llama",
    "llava_llama": "llama",
}

# By `architectures`, where a config has no `model_type`.
ARCHITECTURES = {
    "LlavaQwen2ForCausalLM": "qwen2",
    "FastVlmForConditionalGeneration": "qwen2",
    "LlavaLlamaForCausalLM": "llama",
}


def build_text_config(config: dict[str, Any], tensors: Tensors) -> TextConfig:
    """The arguments of the mlx-lm model that holds `language_model.*` tensors.

    Args:
        config: the checkpoint's `config.json`.
        tensors: the language model's, after `drop_tied_head`.
    Raises:
        CheckpointError: a value is missing, or contradicts the tensors.
    """
    text = _object(config, "text_config") or config
    built: dict[str, Any] = {"model_type": text_model_type(config)}
    built |= {k: text[k] for k in TEXT_FIELDS if text.get(k) is not None}
    rope = _object(text, "rope_parameters")  # transformers 5 moved the base there
    built.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    if rope.get("rope_type", "default") != "default":
        built["rope_scaling"] = rope
    built.setdefault("num_key_value_heads", built.get("num_attention_heads"))
    embedding = tensors.get("language_model.model.embed_tokens.weight")
    if embedding is None:
        raise CheckpointError(
            "tensor language_model.model.embed_tokens.weight is missing;"
            " the checkpoint is incomplete"
        )
    layers = {
        int(m[1]) for n in tensors if (m := re.search(r"\.layers\.(\d{1,9})\.", n))
    }
    for name, stored in (
        ("num_hidden_layers", 1 + max(layers, default=-1)),
        ("vocab_size", embedding.shape[0]),
    ):
        if built.setdefault(name, stored) != stored:
            raise CheckpointError(
                f"config.json: {name} is {built[name]!r:.200}, but the checkpoint"
                f" holds {stored}; the two do not belong together"
            )
    built["tie_word_embeddings"] = "language_model.lm_head.weight" not in tensors
    return TextConfig.from_dict(built)


def text_model_type(config: dict[str, Any]) -> str:
    """mlx-lm's `model_type` of the language model: `qwen2` or `llama`.

    It is declared by the first of: `text_config.model_type`, `model_type`, and, if
    neither is set, `architectures`.

    Raises:
        CheckpointError: not a language model that FastVLM is built on.
    """
    declared = _object(config, "text_config").get("model_type")
    declared = declared or config.get("model_type") or None
    if declared is None:
        architectures = config.get("architectures")
        for name in architectures if isinstance(architectures, list) else ():
            if isinstance(name, str) and name in ARCHITECTURES:
                return ARCHITECTURES[name]
    if isinstance(declared, str) and declared.lower() in MODEL_TYPES:
        return MODEL_TYPES[declared.lower()]
    raise CheckpointError(
        f"config.json: model_type {declared!r:.200} is not a FastVLM's;"
        f" known are {', '.join(MODEL_TYPES)}"
    )


def _object(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The JSON object under `name`, {} if there is none."""
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"config.json: {name} is {value!r:.200}, not an object;"
            " get the right config.json"
        )
    return value


def drop_tied_head(tensors: Tensors) -> None:
    """Removes an output head that equals the embedding from `tensors`.

    The tensors decide, not `tie_word_embeddings`: released configs are known to
    contradict their tensors. A head that differs from the embedding is kept.
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


def build_projector(
    tensors: Tensors, config: dict[str, Any]
) -> tuple[Tensors, ProjectorConfig]:
    """Renames `projector.N.*` to `projector.layers.I.*` and reads the widths.

    N is an index into the publisher's nn.Sequential, which counts the GELUs too
    (LLaVA: 0 and 2) or starts at 1 (transformers: 1 and 2); I counts linear layers.

    Raises:
        CheckpointError: not linear layers, or not what `mm_projector_type` says.
    """
    numbers = sorted(
        {int(m[1]) for n in tensors if (m := re.match(r"projector\.(\d{1,9})\.", n))}
    )
    order = {f"projector.{n}": f"projector.layers.{i}" for i, n in enumerate(numbers)}
    if not numbers:
        order["projector"] = "projector.layers.0"  # `linear` has no number
    out: Tensors = {}
    for name, value in tensors.items():
        prefix, field = name.rsplit(".", 1)
        rank = {"weight": 2, "bias": 1}.get(field)
        if prefix not in order or rank is None:
            raise CheckpointError(
                f"tensor {name} has no place in a projector; known are linear,"
                " mlpNx_gelu and identity"
            )
        if value.ndim != rank:
            raise CheckpointError(
                f"tensor {name} has shape {value.shape}, which is no linear layer's;"
                " the checkpoint is of another model"
            )
        out[f"{order[prefix]}.{field}"] = value
    weights = []
    for index in range(len(order) if tensors else 0):
        if f"projector.layers.{index}.weight" not in out:
            raise CheckpointError(
                f"tensor projector.layers.{index}.weight is missing;"
                " the checkpoint is incomplete"
            )
        weights.append(out[f"projector.layers.{index}.weight"])
    _check_projector_type(config.get("mm_projector_type"), len(weights))
    if not weights:
        return out, ProjectorConfig("identity", ())
    dims = (weights[0].shape[1], *(weight.shape[0] for weight in weights))
    return out, ProjectorConfig("mlp" if len(weights) > 1 else "linear", dims)


def _check_projector_type(declared: Any, layers: int) -> None:
    """Compares LLaVA's `mm_projector_type` with the number of layers in the tensors."""
    if declared is None:
        return
    match = re.fullmatch(r"linear|identity|mlp([1-9]\d{0,2})x_gelu", str(declared))
    if match is None:
        raise CheckpointError(
            f"config.json: mm_projector_type {declared!r:.200} is unknown; use linear,"
            " mlpNx_gelu or identity"
        )
    wanted = {"linear": 1, "identity": 0}.get(str(declared)) if not match[1] else None
    wanted = int(match[1]) if wanted is None else wanted
    if layers != wanted:
        raise CheckpointError(
            f"config.json: mm_projector_type is {declared}, but the checkpoint's"
            f" projector has {layers} layers; the two do not belong together"
        )


def read_multi_scale(config: dict[str, Any]) -> tuple[str | None, tuple[int, ...]]:
    """The encoder's feature aggregation (`avgpool`, `dwconv` or None) and the indices
    of the stages it pools.

    Raises:
        CheckpointError: an unknown kind, or not a list of stage indices.
    """
    kind, stages = config.get("mm_multi_scale"), config.get("mm_multi_scale_stages")
    if kind is not None:
        check_choice("mm_multi_scale", kind, MULTI_SCALE)
    stages = [] if stages is None else stages
    if not isinstance(stages, list) or not all(
        type(stage) is int and 0 <= stage < MAX_LAYERS for stage in stages
    ):
        raise CheckpointError(
            f"config.json: mm_multi_scale_stages is {stages!r:.200}; give a list of"
            " stage numbers"
        )
    return kind, tuple(stages)


def read_context_length(
    config: dict[str, Any], folder: Path, text: TextConfig | None
) -> int:
    """The context length in tokens: the smallest limit of the language model, the
    config and the tokenizer; 32768 if none has one."""
    limits: list[Any] = [text and text.max_position_embeddings]
    limits.append(config.get("tokenizer_model_max_length"))
    tokenizer = read_json(folder / "tokenizer_config.json", optional=True)
    limits.append(tokenizer.get("model_max_length"))
    # Tokenizers without a limit carry 1e30, as a float or as an integer.
    return min(
        (n for n in limits if type(n) is int and 0 < n < 10**9),
        default=32768,
    )
