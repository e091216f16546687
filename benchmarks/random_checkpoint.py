"""Writes a FastVLM checkpoint of random weights in the two layouts that peers read.

    python -m benchmarks.random_checkpoint OUT [--size 0.5b] [--resolution 1024]
        [--dtype bfloat16]

Writes OUT/llava (Apple's layout, read by us and by mlx-vlm) and OUT/transformers
(transformers' fast_vlm) with the same values, in bfloat16 as the released weights are.
Speed does not depend on the values, and in float32 all should generate the same tokens,
whichever dtype the values are stored in. The tests' small tokenizer is extended
to the vocabulary's size, so that every token has a text; `--tokenizer` takes another.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.convert.source import layouts
from fastvlm_mlx.device import DTYPES
from fastvlm_mlx.model.vision_config import VisionConfig

TOKENIZER = Path(__file__).parents[1] / "tests" / "golden" / "tokenizer"
# hidden, layers, heads, key and value heads, intermediate, vocabulary, tied head.
SIZES = {
    "tiny": (64, 2, 4, 2, 192, 4096, True),
    "0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "7b": (3584, 28, 28, 4, 18944, 152128, False),
}
TIMM = "model.vision_tower.timm_model."
APPLE = "model.vision_tower.vision_tower.model."


def make(
    out: Path,
    size: str = "0.5b",
    resolution: int = 1024,
    tokenizer: Path = TOKENIZER,
    dtype: str = "bfloat16",
) -> None:
    """Writes both layouts into `out`; a layout that exists is kept."""
    text = text_config(size)
    for layout, config in (("llava", _llava), ("transformers", _transformers)):
        folder = out / layout
        if (folder / "config.json").is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        tensors = dict(_tensors(text, DTYPES[dtype]))
        if layout == "transformers":
            tensors = _renamed(tensors)
        mx.save_safetensors(
            str(folder / "model.safetensors"), tensors, metadata={"format": "pt"}
        )
        del tensors
        _write_tokenizer(tokenizer, folder, text["vocab_size"])
        image = {"size": {"shortest_edge": resolution}}
        image["crop_size"] = {"height": resolution, "width": resolution}
        _write(folder / "preprocessor_config.json", image)
        _write(folder / "config.json", config(text, resolution, dtype))


def text_config(size: str) -> dict[str, Any]:
    """The language model's part of a config.json."""
    hidden, layers, heads, kv_heads, inner, vocabulary, tied = SIZES[size]
    return {
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_position_embeddings": 32768,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tied,
        "vocab_size": vocabulary,
    }


def _tensors(text: dict[str, Any], dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Apple's names, PyTorch's layout; seeded, so that both layouts are the same."""
    draw = np.random.default_rng(0)
    for name, shape in [*_encoder_shapes(VisionConfig()), *_text_shapes(text)]:
        kind = name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            yield name, mx.array(0, mx.int64)
            continue
        value = draw.standard_normal(shape, dtype=np.float32)
        if kind == "weight" and len(shape) > 1:
            # Each output about as large as the inputs.
            value *= np.prod(shape[1:]) ** -0.5
        elif kind in ("weight", "running_var"):
            value = 1 + 0.1 * np.abs(value)
        elif kind.startswith("layer_scale"):
            value = 0.1 + 0.02 * value
        else:
            value *= 0.02
        yield name, mx.array(value).astype(dtype)


def _encoder_shapes(config: VisionConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    def conv(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield APPLE + name + ".weight", shape
        yield APPLE + name + ".bias", shape[:1]

    dims = config.embed_dims
    for index, shape in enumerate(((3, 3, 3), (1, 3, 3), (dims[0], 1, 1))):
        yield from conv(f"patch_embed.{index}.reparam_conv", dims[0], *shape)
    place = 0
    for stage, (dim, hidden) in enumerate(zip(dims, config.mlp_dims, strict=True)):
        if stage:
            down = f"network.{place}.proj"
            yield from conv(f"{down}.0.lkb_reparam", dim, 1, 7, 7)
            yield from conv(f"{down}.1.reparam_conv", dim, dim, 1, 1)
            place += 1
        if config.pos_emb_kernels[stage]:
            yield from conv(f"network.{place}.reparam_conv", dim, 1, 7, 7)
            place += 1
        for index in range(config.depths[stage]):
            block = f"network.{place}.{index}"
            if config.token_mixers[stage] == "attention":
                yield from conv(f"{block}.norm", dim)
                yield f"{APPLE}{block}.token_mixer.qkv.weight", (3 * dim, dim)
                yield from conv(f"{block}.token_mixer.proj", dim, dim)
                yield f"{APPLE}{block}.layer_scale_1", (dim, 1, 1)
                yield f"{APPLE}{block}.layer_scale_2", (dim, 1, 1)
            else:
                yield from conv(f"{block}.token_mixer.reparam_conv", dim, 1, 3, 3)
                yield f"{APPLE}{block}.layer_scale", (dim, 1, 1)
            ffn = f"{block}.convffn"
            yield f"{APPLE}{ffn}.conv.conv.weight", (dim, 1, 7, 7)
            yield from conv(f"{ffn}.conv.bn", dim)
            for name in ("running_mean", "running_var"):
                yield f"{APPLE}{ffn}.conv.bn.{name}", (dim,)
            yield f"{APPLE}{ffn}.conv.bn.num_batches_tracked", ()
            yield from conv(f"{ffn}.fc1", hidden, dim, 1, 1)
            yield from conv(f"{ffn}.fc2", dim, hidden, 1, 1)
        place += 1
    out, gate = config.out_dim, config.out_se_dim
    yield from conv("conv_exp.reparam_conv", out, 1, 3, 3)
    yield from conv("conv_exp.se.reduce", gate, out, 1, 1)
    yield from conv("conv_exp.se.expand", out, gate, 1, 1)
    yield APPLE + "head.proj", (out, 768)


def _text_shapes(text: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    kv_dim = text["num_key_value_heads"] * hidden // text["num_attention_heads"]
    for index, dim in ((0, VisionConfig().out_dim), (2, hidden)):
        yield f"model.mm_projector.{index}.weight", (hidden, dim)
        yield f"model.mm_projector.{index}.bias", (hidden,)
    yield "model.embed_tokens.weight", (text["vocab_size"], hidden)
    for index in range(text["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        for name, dim in (("q", hidden), ("k", kv_dim), ("v", kv_dim)):
            yield f"{layer}.self_attn.{name}_proj.weight", (dim, hidden)
            yield f"{layer}.self_attn.{name}_proj.bias", (dim,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not text["tie_word_embeddings"]:
        yield "lm_head.weight", (text["vocab_size"], hidden)


def _renamed(tensors: dict[str, mx.array]) -> dict[str, mx.array]:
    """The same in transformers' fast_vlm names, through the converter's own table."""
    llava = next(layout for layout in layouts.LAYOUTS if layout.name == "llava")
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    found = {}
    for old, new in layouts.rename(list(tensors), llava).items():
        for ours, theirs in (
            ("vision_tower.", TIMM),
            ("projector.0", "model.multi_modal_projector.linear_1"),
            ("projector.2", "model.multi_modal_projector.linear_2"),
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
        ):
            if new.startswith(ours):
                found[theirs + new[len(ours) :]] = tensors[old]
    norms = [name for name in found if name.endswith("running_var")]
    for name, counter in zip(norms, counters, strict=True):
        counted = name.replace("running_var", "num_batches_tracked")
        found[counted] = tensors[counter]
    return found


def _llava(text: dict[str, Any], resolution: int, dtype: str) -> dict[str, Any]:
    return {
        **text,
        "architectures": ["LlavaQwen2ForCausalLM"],
        "model_type": "llava_qwen2",
        "eos_token_id": 151645,
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "mm_hidden_size": VisionConfig().out_dim,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": f"mobileclip_l_{resolution}",
        "tokenizer_model_max_length": 8192,
        "torch_dtype": dtype,
        "unfreeze_mm_vision_tower": True,
        "vision_config": {},
    }


def _transformers(text: dict[str, Any], resolution: int, dtype: str) -> dict[str, Any]:
    rope = {"rope_theta": text["rope_theta"], "rope_type": "default"}
    inner = {**text, "model_type": "qwen2", "rope_parameters": rope}
    return {
        "architectures": ["FastVlmForConditionalGeneration"],
        "model_type": "fast_vlm",
        "dtype": dtype,
        "image_seq_length": VisionConfig().tokens(resolution),
        # An id that no tokenizer of these checkpoints uses.
        "image_token_index": text["vocab_size"] - 1,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "text_config": inner,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": {
            "architecture": "fastvit_mci3",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": VisionConfig().out_dim,
            "initializer_range": 0.02,
            "model_args": {"inference_mode": True},
            "model_type": "timm_wrapper",
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def _write_tokenizer(source: Path, folder: Path, vocabulary: int) -> None:
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    taken = {*words.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    for number in range(vocabulary - 1):
        if number not in taken:
            words[f"Ġw{number}"] = number  # "Ġ" is a space in byte-level BPE
    _write(folder / "tokenizer.json", tokenizer)
    shutil.copy(source / "tokenizer_config.json", folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    make(
        options.out,
        options.size,
        options.resolution,
        options.tokenizer,
        options.dtype,
    )
    print(options.out)


if __name__ == "__main__":
    main()
