"""Writes mlx-community's layout: `fastvlm-mlx export mlx-vlm SRC OUT`.

It is read by mlx-vlm (Python) and mlx-swift-lm (Swift), whose encoder has the
train-time form: a BatchNorm after each FFN convolution, LayerNorm's affine, layer
scales. Our folded encoder is written in that form: BatchNorms and scales become
identities, and the bias of qkv, which their code does not have, becomes the bias of the
LayerNorm before it.
https://github.com/Blaizzy/mlx-vlm/blob/main/mlx_vlm/models/fastvlm/vision.py
https://github.com/ml-explore/mlx-swift-lm/blob/main/Libraries/MLXVLM/Models/FastVLM.swift
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.adapters.files import Adapter
from fastvlm_mlx.convert import llava_files
from fastvlm_mlx.convert.outputs import MODEL_FOLDER
from fastvlm_mlx.convert.save_weights import LICENCE_FILES, copy_files, save_tensors
from fastvlm_mlx.device import DTYPES, cpu_only
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.weights.weight_files import Tensors, cast, reading

PROCESSOR = "FastVLMProcessor"
TOWER = "vision_tower.vision_model."

# mlx-vlm's id for `<image>`; it is never looked up in the embedding.
IMAGE_INDEX = -200

# nn.BatchNorm's default, which the weight of an identity BatchNorm cancels.
BATCH_NORM_EPS = 1e-5

# The width of CLIP's head, which both programs allocate and neither uses.
HEAD_DIM = 768

# The sizes that mlx-vlm hard-codes; mlx-swift-lm reads them from config.json.
RELEASED = VisionConfig()


@dataclass(frozen=True)
class MLXVLMReport:
    """The result of an export.

    Attributes:
        out: the folder that was written.
        bytes: its size on disk.
        warnings: what mlx-vlm does not support, one line each.
    """

    out: Path
    bytes: int
    warnings: tuple[str, ...]


@cpu_only()
@reading()
def export(
    source: Path | str,
    out: Path | str,
    *,
    dtype: str = "bfloat16",
    q_bits: int | None = None,
    q_group_size: int = 64,
    adapter: Adapter | Path | str | None = None,
    overwrite: bool = False,
) -> MLXVLMReport:
    """Writes `out` in mlx-community's layout from any FastVLM checkpoint.

    Args:
        source: a name, hub id, folder or `.zip` in any known layout.
        out: the folder to write. It appears when it is complete.
        dtype: `float32`, `float16` or `bfloat16`, of all tensors but quantized ones.
        q_bits: 4 or 8 quantizes the language model.
        q_group_size: weights that share a scale: 32, 64 or 128.
        adapter: one to merge into the float weights first, or its folder.
        overwrite: replaces `out` if it is a model folder that this program wrote.
    Raises:
        AdapterError: the adapter cannot be read or merged into this model.
        CheckpointError: mlx-vlm's code cannot express the encoder.
        OptionError: an option cannot be honoured.
    """
    if dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype}: unknown; use {', '.join(DTYPES)}")
    llava_files.check_quantization(q_bits, q_group_size)
    out = Path(os.path.expanduser(out))
    folder, config, tensors = llava_files.read_model(source, "mlx-vlm", adapter)
    vision = config.vision
    assert vision is not None  # checked by read_model
    _check_encoder(vision)
    tensors, quantization = llava_files.quantize_language_model(
        tensors, config, q_bits, q_group_size
    )
    named = to_train_form(tensors, vision)
    for name, array in tensors.items():
        if name.startswith("projector.layers."):
            _, _, index, field = name.split(".")
            linear = config.projector is not None and config.projector.type == "linear"
            layer = "" if linear else f"{2 * int(index)}."
            named[f"mm_projector.{layer}{field}"] = array
        elif name.startswith("language_model."):
            named[name] = array
    named = cast(named, DTYPES[dtype])
    del tensors
    with staged_folder(
        out, overwrite=overwrite, kind=MODEL_FOLDER, source=folder
    ) as partial:
        save_tensors(partial, named)
        _, stop_id = llava_files.write_tokenizer(folder, partial, add_image=False)
        written = llava_files.llava_config(config, stop_id)
        written |= {
            "image_token_index": IMAGE_INDEX,
            "torch_dtype": dtype,
            "vision_config": build_vision_config(vision, config.image_size),
        }
        if quantization is not None:
            written["quantization"] = quantization
        llava_files.write_json(partial / "config.json", written)
        processor = llava_files.preprocessor_config(config, PROCESSOR)
        llava_files.write_json(partial / "preprocessor_config.json", processor)
        copy_files(folder, LICENCE_FILES, partial)
        total = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
    warnings = []
    if (vision.depths, vision.embed_dims) != (RELEASED.depths, RELEASED.embed_dims):
        warnings.append(
            f"mlx-vlm builds encoders of depths {RELEASED.depths} only, whatever"
            f" config.json says, and this one's are {vision.depths}"
        )
    return MLXVLMReport(out, total, tuple(warnings))


def build_vision_config(vision: VisionConfig, image_size: int) -> dict[str, Any]:
    """The `vision_config` of mlx-swift-lm; mlx-vlm ignores the sizes in it."""
    return {
        "model_type": "llava_qwen2",
        "cls_ratio": vision.out_dim / vision.embed_dims[-1],
        "down_patch_size": vision.downsample_kernel,
        "down_stride": 2,
        "downsamples": [True] * len(vision.depths),
        "embed_dims": list(vision.embed_dims),
        "hidden_size": 1024,
        "image_size": image_size,
        "intermediate_size": 3072,
        "layer_scale_init_value": 1e-5,
        "layers": list(vision.depths),
        "mlp_ratios": [
            hidden // dim
            for hidden, dim in zip(vision.mlp_dims, vision.embed_dims, strict=True)
        ],
        "num_classes": 1000,
        "patch_size": vision.stride,
        "pos_embs_shapes": [[k, k] if k else None for k in vision.pos_emb_kernels],
        "projection_dim": HEAD_DIM,
        "repmixer_kernel_size": vision.repmixer_kernel,
        "token_mixers": list(vision.token_mixers),
    }


def _check_encoder(vision: VisionConfig) -> None:
    """Raises CheckpointError for an encoder that mlx-vlm's code cannot express."""
    for cause, found in (
        ("squeeze-excite in its downsamplings", any(vision.downsample_se_dims)),
        ("BatchNorm in its attention", not vision.layer_norm),
        ("multi-scale features", bool(vision.multi_scale_stages)),
        ("heads of another width than 32", vision.head_dim != 32),
    ):
        if found:
            raise CheckpointError(
                f"export mlx-vlm: its encoder has no {cause}, and this checkpoint"
                " does; use fastvlm-mlx convert"
            )


def to_train_form(tensors: Tensors, vision: VisionConfig) -> Tensors:
    """Our `vision_tower.*` tensors in mlx-vlm's names and train-time form."""
    out: Tensors = {}

    def put(name: str, ours: str, form: str = "as is") -> None:
        for field in ("weight", "bias"):
            array = tensors[f"vision_tower.{ours}.{field}"]
            if form == "pointwise" and field == "weight":
                array = array[:, None, None, :]  # [out, in] -> [out, 1, 1, in]
            out[f"{TOWER}{name}.{field}"] = array

    put("patch_embed.blocks.0.reparam_conv", "stem.conv")
    put("patch_embed.blocks.1.reparam_conv", "stem.depthwise")
    put("patch_embed.blocks.2.reparam_conv", "stem.pointwise", "pointwise")
    # Apple's `network` is a flat list: blocks, downsample, blocks, ..., with a position
    # encoding before the blocks of an attention stage.
    number = 0
    for stage, depth in enumerate(vision.depths):
        ours = f"stages.{stage}"
        if stage:
            name = f"network.{number}.proj"
            put(f"{name}.0.lkb_reparam", f"{ours}.downsample.depthwise")
            put(f"{name}.1.reparam_conv", f"{ours}.downsample.pointwise", "pointwise")
            number += 1
        if vision.pos_emb_kernels[stage]:
            put(f"network.{number}.reparam_conv", f"{ours}.pos_emb")
            number += 1
        for index in range(depth):
            name, block = f"network.{number}.{index}", f"{ours}.blocks.{index}"
            attention = vision.token_mixers[stage] == "attention"
            dim = vision.embed_dims[stage]
            for scale in ("_1", "_2") if attention else ("",):
                out[f"{TOWER}{name}.layer_scale{scale}"] = mx.ones((1, 1, dim))
            if attention:
                out |= _norm_and_qkv(tensors, block, f"{TOWER}{name}")
                put(f"{name}.token_mixer.proj", f"{block}.token_mixer.proj")
            else:
                put(f"{name}.token_mixer.reparam_conv", f"{block}.token_mixer")
            out |= _conv_norm(tensors, f"{block}.mlp.conv", f"{TOWER}{name}")
            for layer in ("fc1", "fc2"):
                put(f"{name}.convffn.{layer}", f"{block}.mlp.{layer}", "pointwise")
        number += 1
    put("conv_exp.reparam_conv", "final_conv.depthwise")
    put("conv_exp.se.reduce", "final_conv.se.fc1", "pointwise")
    put("conv_exp.se.expand", "final_conv.se.fc2", "pointwise")
    out[f"{TOWER}head.proj"] = mx.zeros((vision.out_dim, HEAD_DIM))
    return out


def _conv_norm(tensors: Tensors, ours: str, block: str) -> Tensors:
    """A convolution without bias, and an identity BatchNorm that adds the bias."""
    bias = tensors[f"vision_tower.{ours}.bias"]
    name = f"{block}.convffn.conv"
    return {
        f"{name}.conv.weight": tensors[f"vision_tower.{ours}.weight"],
        f"{name}.bn.weight": mx.full(bias.shape, (1 + BATCH_NORM_EPS) ** 0.5),
        f"{name}.bn.bias": bias,
        f"{name}.bn.running_mean": mx.zeros(bias.shape),
        f"{name}.bn.running_var": mx.ones(bias.shape),
    }


def _norm_and_qkv(tensors: Tensors, block: str, name: str) -> Tensors:
    """A LayerNorm bias s and a qkv without bias, with W (x + s) = W x + b.

    s exists if b came from folding a LayerNorm's bias into qkv.

    Raises:
        CheckpointError: no s gives b.
    """
    ours = f"vision_tower.{block}.token_mixer.qkv"
    weight, bias = tensors[f"{ours}.weight"], tensors[f"{ours}.bias"]
    matrix = np.array(weight.astype(mx.float32)).astype(np.float64)
    wanted = np.array(bias.astype(mx.float32)).astype(np.float64)
    shift = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    residual = np.abs(matrix @ shift - wanted).max()
    if residual > 1e-3 * max(np.abs(wanted).max(), 1e-3):
        raise CheckpointError(
            f"export mlx-vlm: {block} has a bias on qkv ({residual:.2g} of it not from"
            " its norm), which mlx-vlm's encoder lacks; use fastvlm-mlx convert"
        )
    return {
        f"{name}.norm.weight": mx.ones((weight.shape[1],)),
        f"{name}.norm.bias": mx.array(shift.astype(np.float32)),
        f"{name}.token_mixer.qkv.weight": weight,
    }
