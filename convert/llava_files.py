"""What the outputs for other programs share: source model, config, tokenizer files.

Apple's app and mlx-vlm both read a `llava_qwen2` config.json with the language model's
values at its root, and Hugging Face's tokenizer files.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.adapters.files import Adapter, read_adapter
from fastvlm_mlx.adapters.merge import merge_into
from fastvlm_mlx.convert.outputs import CONVERTER_KEY, converter
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import assign
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.model_folder import converted
from fastvlm_mlx.processing import tokenizer
from fastvlm_mlx.weights.quantization import BITS, GROUP_SIZES, is_quantized, quantized
from fastvlm_mlx.weights.weight_files import Tensors, load_all_tensors

IMAGE_TOKEN = "<image>"

# The embedding is padded to a multiple of this many rows, as Qwen2's is.
VOCABULARY_MULTIPLE = 64

# Qwen2's own template for content that is a string. For content that is a list of
# parts (mlx-swift-lm, transformers 5) an image part becomes `<image>` and a newline.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<image>\n' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def read_model(
    source: Path | str, target: str, adapter: Adapter | Path | str | None = None
) -> tuple[Path, ModelConfig, Tensors]:
    """Converts `source` to our format if it is not, and opens it.

    Args:
        source: a name, hub id, folder or `.zip` in any known layout.
        target: `ios` or `mlx-vlm`, for messages.
        adapter: one to merge into the float weights, or its folder.
    Returns:
        the converted folder, its config, and its tensors, lazy.
    Raises:
        AdapterError: the adapter cannot be read or merged into this model.
        CheckpointError: programs that read `target` cannot run this model.
    """
    if isinstance(adapter, str | Path):
        adapter = read_adapter(adapter)
    folder = converted(source)
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    text = config.text
    if config.vision is None or config.projector is None or text is None:
        raise CheckpointError(
            f"{source}: export {target} needs an encoder, a projector and a language"
            " model; give a whole FastVLM checkpoint"
        )
    if text.model_type != "qwen2":
        raise CheckpointError(
            f"{source}: export {target} is read as Qwen2, and this language model is"
            f" {text.model_type}; use fastvlm-mlx convert"
        )
    head_dim = text.hidden_size // text.num_attention_heads
    if text.head_dim != head_dim or text.rope_scaling:
        raise CheckpointError(
            f"{source}: export {target} supports neither head_dim nor rope_scaling,"
            " which this language model sets; use fastvlm-mlx convert"
        )
    tensors = load_all_tensors(folder)
    if adapter is not None:
        tensors, config = merge_into(tensors, config, adapter)
    return folder, config, tensors


def vision_model(tensors: Tensors, config: ModelConfig) -> FastVLMModel:
    """The encoder and the projector in float32, without the language model."""
    model = FastVLMModel(replace(config, text=None, quantization=None))
    vision = {n: a for n, a in tensors.items() if not n.startswith("language_model.")}
    assign(model, vision, mx.float32)
    return model


def add_embedding_rows(tensors: Tensors, needed: int) -> Tensors:
    """Pads the embedding and the head, if there, with zeros to `needed` rows."""
    out = dict(tensors)
    for layer in ("model.embed_tokens", "lm_head"):
        for field in ("weight", "scales", "biases"):
            name = f"language_model.{layer}.{field}"
            if name in out and (rows := out[name].shape[0]) < needed:
                whole = -(-needed // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
                extra = whole - rows
                zeros = mx.zeros((extra, out[name].shape[1]), out[name].dtype)
                out[name] = mx.concatenate([out[name], zeros])
    return out


def check_quantization(bits: int | None, group_size: int) -> None:
    """Refuses impossible values before anything is read.

    Raises:
        OptionError: `bits` or `group_size` is none of those that MLX has.
    """
    if bits is not None and (bits not in BITS or group_size not in GROUP_SIZES):
        raise OptionError(
            f"--q-bits {bits} --q-group-size {group_size}: use 4 or 8, in groups of"
            " 32, 64 or 128"
        )


def quantize_language_model(
    tensors: Tensors, config: ModelConfig, bits: int | None, group_size: int
) -> tuple[Tensors, dict[str, Any] | None]:
    """Quantizes the language model, unless `bits` is None.

    Returns:
        the tensors, and the config's `quantization`, None if nothing is quantized.
    Raises:
        OptionError: the language model is quantized already, or impossible values.
    """
    if is_quantized(tensors):
        if bits is not None:
            raise OptionError(
                f"--q-bits {bits}: the checkpoint is quantized already; leave it out"
            )
        return tensors, config.quantization
    if bits is None:
        return tensors, None
    check_quantization(bits, group_size)
    settings = {"group_size": group_size, "bits": bits}
    return quantized(tensors, bits, group_size), settings


def llava_config(config: ModelConfig, stop_id: int) -> dict[str, Any]:
    """The `config.json` of LLaVA-Qwen2 that describes `config`."""
    text, projector, vision = config.text, config.projector, config.vision
    assert text and projector and vision  # checked by read_model
    layers = len(projector.dims) - 1
    kind = "linear" if layers == 1 else f"mlp{layers}x_gelu"
    return {
        CONVERTER_KEY: converter(),
        "architectures": ["LlavaQwen2ForCausalLM"],
        "hidden_act": "silu",
        "use_cache": True,
        **text.to_dict(),
        "model_type": "llava_qwen2",
        "eos_token_id": stop_id,
        "image_aspect_ratio": "pad" if config.fit == "pad" else "square",
        "mm_hidden_size": vision.feature_dim,
        "mm_patch_merge_type": "flat",
        "mm_projector_type": kind,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"mobileclip_l_{config.image_size}",
        "tokenizer_model_max_length": config.context_length,
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
    }


def preprocessor_config(config: ModelConfig, processor: str) -> dict[str, Any]:
    """The `preprocessor_config.json`: CLIP's, without normalization."""
    size = config.image_size
    return {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [1.0, 1.0, 1.0],
        "processor_class": processor,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }


def write_tokenizer(source: Path, folder: Path, *, add_image: bool) -> tuple[int, int]:
    """Writes tokenizer.json and tokenizer_config.json into `folder`.

    Args:
        source: the folder of the model's tokenizer.
        folder: exists already.
        add_image: adds `<image>` as a special token, if there is none.
    Returns:
        the id of `<image>` (-1 without `add_image`) and the id of `<|im_end|>`.
    Raises:
        CheckpointError: the tokenizer has no `<|im_end|>`.
    """
    # Apple's release has only vocab.json and merges.txt; Swift reads tokenizer.json.
    state = json.loads(tokenizer.read(source).to_str())
    settings = read_json(source / "tokenizer_config.json", optional=True)
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    ids = set(state["model"]["vocab"].values()) | set(added.values())
    image_id = -1
    if add_image:
        image_id = added.get(IMAGE_TOKEN, max(ids) + 1)
        if IMAGE_TOKEN not in added:
            token = {
                "content": IMAGE_TOKEN,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            state["added_tokens"].append({"id": image_id, **token})
            settings.setdefault("added_tokens_decoder", {})[str(image_id)] = token
    settings.setdefault("tokenizer_class", "Qwen2Tokenizer")
    settings.setdefault("eos_token", "<|im_end|>")
    settings["chat_template"] = CHAT_TEMPLATE
    write_json(folder / "tokenizer.json", state)
    write_json(folder / "tokenizer_config.json", settings)
    stop_id = added.get("<|im_end|>")
    if stop_id is None:
        raise CheckpointError(
            f"{source}: its tokenizer has no <|im_end|>; use a Qwen2 tokenizer"
        )
    return image_id, stop_id


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
