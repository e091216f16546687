"""Random checkpoints of every layout, written as their publishers write them.

    write(folder, Spec(layout="transformers", tied=False), seed=3)

A seed fixes the encoder, the projector and the language model whatever the layout, so
two layouts of one seed must give the same answers.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tests.support import encoders
from tests.support.encoders import Arrays, Encoder
from tests.support.paths import GOLDEN

TOKENIZER = GOLDEN / "tokenizer"
VOCAB = 1600  # padded beyond the tokenizer's 1539, as in real checkpoints
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

Tensors = dict[str, mx.array]


@dataclass(frozen=True)
class Spec:
    """What to write. `layout` is a name of `source/layouts.py`; `shards` > 1 writes an
    index; `q_bits` quantizes the language model in groups of 32; `config` replaces
    entries of config.json (None removes one)."""

    layout: str = "llava"
    encoder: Encoder = field(default_factory=Encoder)
    hidden: int = 32
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    intermediate: int = 64
    vocab: int = VOCAB
    projector: str = "mlp2x_gelu"
    tied: bool = True
    dtype: str = "float32"
    shards: int = 1
    q_bits: int | None = None
    image_size: int = 128
    config: dict[str, Any] = field(default_factory=dict)


def language_model(spec: Spec, seed: int) -> Arrays:
    """A random Qwen2 in mlx-lm's names, without `language_model.`."""
    random = np.random.default_rng(seed + 1)

    def normal(*shape: int, mean: float = 0.0, scale: float = 0.15) -> np.ndarray:
        return random.normal(mean, scale, shape).astype(np.float32)

    hidden, inner = spec.hidden, spec.intermediate
    kv_dim = hidden // spec.heads * spec.kv_heads
    out = {"model.embed_tokens.weight": normal(spec.vocab, hidden, scale=0.5)}
    for i in range(spec.layers):
        layer = f"model.layers.{i}"
        for name, rows in (("q", hidden), ("k", kv_dim), ("v", kv_dim)):
            out[f"{layer}.self_attn.{name}_proj.weight"] = normal(rows, hidden)
            out[f"{layer}.self_attn.{name}_proj.bias"] = normal(rows)
        out[f"{layer}.self_attn.o_proj.weight"] = normal(hidden, hidden)
        out[f"{layer}.mlp.gate_proj.weight"] = normal(inner, hidden)
        out[f"{layer}.mlp.up_proj.weight"] = normal(inner, hidden)
        out[f"{layer}.mlp.down_proj.weight"] = normal(hidden, inner)
        out[f"{layer}.input_layernorm.weight"] = normal(hidden, mean=1.0)
        out[f"{layer}.post_attention_layernorm.weight"] = normal(hidden, mean=1.0)
    out["model.norm.weight"] = normal(hidden, mean=1.0)
    if not spec.tied:
        out["lm_head.weight"] = normal(spec.vocab, hidden, scale=0.5)
    return out


def projector(spec: Spec, seed: int) -> Arrays:
    """Its layers, numbered as LLaVA's nn.Sequential: 0, 2, 4; `` for `linear`."""
    random = np.random.default_rng(seed + 2)
    if spec.projector == "identity":
        return {}
    layers = 1 if spec.projector == "linear" else int(spec.projector[3])
    width, out = spec.encoder.feature_dim, {}
    for i in range(layers):
        name = "" if spec.projector == "linear" else f"{2 * i}."
        weight = random.normal(0, width**-0.5, (spec.hidden, width))
        out[f"{name}weight"] = weight.astype(np.float32)
        out[f"{name}bias"] = random.normal(0, 0.1, spec.hidden).astype(np.float32)
        width = spec.hidden
    return out


def tensors(spec: Spec, seed: int = 0) -> Tensors:
    """All tensors, named and laid out as in `spec.layout`."""
    encoder = encoders.build(spec.encoder, seed)
    timm = encoders.in_timm_names(encoder, spec.encoder)
    mlx = encoders.in_mlx_layout(encoder)
    text, connector = language_model(spec, seed), projector(spec, seed)
    # transformers and Apple's exports number the layers without the GELUs between.
    first = {"transformers": 1, "mlx-export": 0}.get(spec.layout, 0)
    steps = {"mlx-export": 2}.get(spec.layout, 1)
    numbered = {
        f"linear_{int(n[0]) // 2 * steps + first}{n[1:]}" if n[0].isdigit() else n: a
        for n, a in connector.items()
    }
    hub = {
        "model.language_model." + n[6:]: a for n, a in text.items() if n[:6] == "model."
    }
    head = {n: a for n, a in text.items() if n.startswith("lm_head.")}
    by_prefix: dict[str, list[tuple[str, Arrays]]] = {
        "llava": [
            ("model.vision_tower.vision_tower.model.", encoder),
            ("model.mm_projector.", connector),
            ("", text),
        ],
        "transformers": [
            ("model.vision_tower.timm_model.", timm),
            ("model.multi_modal_projector.", numbered),
            ("", hub | head),
        ],
        "mlx-community": [
            ("vision_tower.vision_model.", mlx),
            ("mm_projector.", connector),
            ("language_model.", text),
        ],
        "mlx-export": [
            ("multi_modal_projector.", numbered),
            ("language_model.", text),
        ],
        "mobileclip": [
            ("image_encoder.model.", encoder),
            ("text_encoder.", {"embedding.weight": np.zeros((4, 4), np.float32)}),
            ("logit_", {"scale": np.array(1.0, np.float32)}),
        ],
        "openclip": [("visual.trunk.", timm)],
        "encoder": [("", encoder)],
        "timm": [("", timm)],
    }
    out: Tensors = {}
    for prefix, part in by_prefix[spec.layout]:
        out |= encoders.to_mlx(part, prefix)
    out = {
        name: array.astype(DTYPES[spec.dtype])
        if mx.issubdtype(array.dtype, mx.floating)
        else array
        for name, array in out.items()
    }
    return quantized(out, spec.q_bits, "language_model.") if spec.q_bits else out


def quantized(stored: Tensors, bits: int, prefix: str, group_size: int = 32) -> Tensors:
    """Quantizes the matrices below `prefix`, as mlx-lm and mlx-vlm do."""
    out: Tensors = {}
    for name, array in stored.items():
        if not name.startswith(prefix) or array.ndim != 2:
            out[name] = array
            continue
        layer = name.removesuffix(".weight")
        packed, scales, biases = mx.quantize(array, group_size=group_size, bits=bits)
        out |= {name: packed, f"{layer}.scales": scales, f"{layer}.biases": biases}
    return out


def config(spec: Spec) -> dict[str, Any]:
    """The config.json of `spec.layout`."""
    text = {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "intermediate_size": spec.intermediate,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": 1e-6,
        "vocab_size": spec.vocab,
        "max_position_embeddings": 32768,
    }
    stride = 4 * 2 ** (len(spec.encoder.widths) - 1)
    if spec.layout == "transformers":
        values: dict[str, Any] = {
            "architectures": ["FastVlmForConditionalGeneration"],
            "model_type": "fast_vlm",
            "image_seq_length": (spec.image_size // stride) ** 2,
            "text_config": text
            | {
                "model_type": "qwen2",
                "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
            },
            "tie_word_embeddings": spec.tied,
        }
    else:
        values = text | {
            "architectures": ["LlavaQwen2ForCausalLM"],
            "model_type": "llava_qwen2",
            "mm_vision_tower": f"mobileclip_l_{spec.image_size}",
            "mm_projector_type": spec.projector,
            "image_aspect_ratio": "pad",
            "image_grid_pinpoints": None,
            "rope_theta": 1e6,
            "tie_word_embeddings": spec.tied,
            "tokenizer_model_max_length": 8192,
        }
    if spec.q_bits:
        values["quantization"] = {"group_size": 32, "bits": spec.q_bits}
    if spec.encoder.pooled:
        values["mm_multi_scale"] = "dwconv"
        values["mm_multi_scale_stages"] = list(spec.encoder.pooled)
    values |= spec.config
    return {name: value for name, value in values.items() if value is not None}


def write(folder: Path, spec: Spec | None = None, seed: int = 0, **fields: Any) -> Path:
    """Writes a whole checkpoint folder and returns it. Bare encoders are one file."""
    spec = Spec(**fields) if spec is None else spec
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, tensors(spec, seed), spec.shards)
    if spec.layout not in ("mobileclip", "openclip", "encoder", "timm"):
        (folder / "config.json").write_text(json.dumps(config(spec)))
        shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    if spec.layout == "mlx-export":
        package = folder / "fastvithd.mlpackage"
        package.mkdir()
        (package / "Manifest.json").write_text("{}")
    return folder


def save(folder: Path, stored: Tensors, shards: int = 1):
    """Writes `model*.safetensors`, and the index if there are several."""
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), stored)
        return
    names, weight_map = sorted(stored), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i::shards]
        mx.save_safetensors(str(folder / file), {name: stored[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
