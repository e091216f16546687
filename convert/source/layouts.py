"""Detects a checkpoint's layout and renames its tensors to ours.

A layout is detected by the prefixes of its tensor names, never by a shape. The renamed
tensors are `vision_tower.*` in timm's train-time names, `projector.N.*`, and
`language_model.*` in mlx-lm's names. A tensor that no prefix matches is an error;
tensors that inference does not need are listed in `UNUSED_TENSORS`.
"""

import re
from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """How one family of checkpoints names its tensors.

    Attributes:
        name: as `info` and config.json's `source` show it.
        signature: a prefix that only this layout has.
        prefixes: (theirs, ours); the first match is used, "" drops the tensor.
        channels_last: convolutions are stored as (out, kH, kW, in), as MLX has them,
            not as (out, in, kH, kW).
    """

    name: str
    signature: str
    prefixes: tuple[tuple[str, str], ...]
    channels_last: bool = False


LAYOUTS = (
    Layout(  # Apple's release and training checkpoints (LlavaQwen2ForCausalLM)
        "llava",
        "model.vision_tower.vision_tower.model.",
        (
            ("model.vision_tower.vision_tower.model.", "vision_tower."),
            ("model.mm_projector.", "projector."),
            ("model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ),
    ),
    Layout(  # transformers' fast_vlm
        "transformers",
        "model.vision_tower.timm_model.",
        (
            ("model.vision_tower.timm_model.", "vision_tower."),
            ("model.multi_modal_projector.linear_", "projector."),
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
        ),
    ),
    Layout(  # mlx-community's conversions, made with mlx-vlm
        "mlx-community",
        "vision_tower.vision_model.",
        (
            ("vision_tower.vision_model.", "vision_tower."),
            ("mm_projector.", "projector."),
            ("multi_modal_projector.linear_", "projector."),
            ("language_model.", "language_model."),
        ),
        channels_last=True,
    ),
    Layout(  # Apple's MLX exports: the encoder is a Core ML package beside them
        "mlx-export",
        "multi_modal_projector.linear_",
        (
            ("multi_modal_projector.linear_", "projector."),
            ("language_model.", "language_model."),
        ),
    ),
    Layout(  # MobileCLIP's checkpoints: an image and a text encoder
        "mobileclip",
        "image_encoder.model.",
        (("image_encoder.model.", "vision_tower."), ("text_encoder.", "")),
    ),
    Layout(  # MobileCLIP in OpenCLIP's names
        "openclip",
        "visual.trunk.",
        (
            ("visual.trunk.", "vision_tower."),
            ("visual.", ""),
            ("text.", ""),
            ("logit_", ""),
        ),
    ),
    Layout("encoder", "patch_embed.", (("", "vision_tower."),)),
    Layout("encoder", "stem.", (("", "vision_tower."),)),
)

# A folder that our converter wrote; detected by `model_type` in its config.json.
OWN_LAYOUT = Layout("fastvlm-mlx", "", (("", ""),))

# Apple's names to timm's; all are applied, in this order. Apple's flat `network.N` is
# replaced before, with `_stage_prefixes`.
ENCODER_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\bpatch_embed\.(?:blocks\.)?", "stem."),
        (r"\bconv_exp\.", "final_conv."),
        (r"\bconvffn\.", "mlp."),
        (r"\brbr_conv\.", "conv_kxk."),
        (r"\brbr_scale\.", "conv_scale."),
        (r"\brbr_skip\.", "identity."),
        (r"\blkb_origin\.", "large_conv."),
        (r"\blkb_reparam\.", "reparam_conv."),
        (r"\bse\.(?:reduce|conv_reduce)\.", "se.fc1."),
        (r"\bse\.(?:expand|conv_expand)\.", "se.fc2."),
        (r"\bpe\.", "pos_enc."),
        (r"\b(layer_scale(?:_[12])?)$", r"\1.gamma"),
    )
)

_NETWORK = re.compile(r"\bnetwork\.(\d{1,9})\.", re.ASCII)

# Tensors that inference does not need: BatchNorm's counters, CLIP's and ImageNet's
# heads, precomputed rotary frequencies.
UNUSED_TENSORS = re.compile(
    r"num_batches_tracked$|^vision_tower\.head\.|rotary_emb\.inv_freq$|^logit_scale$"
)


def detect(names: list[str]) -> Layout:
    """The layout of a checkpoint whose tensors have these `names`.

    Raises:
        CheckpointError: no known layout.
    """
    for layout in LAYOUTS:
        if any(name.startswith(layout.signature) for name in names):
            return layout
    example = min(names, default="no tensors at all")
    raise CheckpointError(
        f"unknown layout ({example}); known are LLaVA-Qwen2, transformers' fast_vlm,"
        " mlx-community, Apple's MLX exports and FastViT encoders"
    )


def rename(names: list[str], layout: Layout) -> dict[str, str]:
    """Maps each tensor's name to our train-time name; unused tensors are left out.

    Raises:
        CheckpointError: a name that the layout does not have, or two that become one.
    """
    stages = _stage_prefixes(names)
    renamed: dict[str, str] = {}
    origin: dict[str, str] = {}  # our name -> the checkpoint's
    for name in names:
        new = _replace_prefix(name, layout)
        if new is None or UNUSED_TENSORS.search(new):
            continue
        if new.startswith("vision_tower."):
            new = _NETWORK.sub(lambda m: stages.get(int(m[1]), m[0]), new)
            for pattern, replacement in ENCODER_RENAMES:
                new = pattern.sub(replacement, new)
        if new in origin:
            raise CheckpointError(
                f"tensors {origin[new]} and {name} are the same part of the model;"
                " the checkpoint mixes two layouts"
            )
        renamed[name], origin[new] = new, name
    return renamed


def _replace_prefix(name: str, layout: Layout) -> str | None:
    """`name` with our prefix; None if the tensor is not used."""
    for old, new in layout.prefixes:
        if name.startswith(old):
            return new + name[len(old) :] if new else None
    if UNUSED_TENSORS.search(name):
        return None
    raise CheckpointError(
        f"tensor {name} does not belong to the {layout.name} layout;"
        " the checkpoint is of another model"
    )


def _stage_prefixes(names: list[str]) -> dict[int, str]:
    """Maps N of Apple's `network.N.` to timm's prefix, by the next part of the name.

    A downsampling (`network.N.proj.`) starts the next stage, a position encoding
    (`network.N.pe.` or `.reparam_conv.`) belongs to the stage that follows it, and
    blocks are numbered (`network.N.M.`): 0 blocks, 1 downsample, 2 blocks, ...
    """
    children: dict[int, str] = {}
    for name in names:
        if match := re.search(_NETWORK.pattern + r"(\w+)\.", name):
            children[int(match[1])] = match[2]
    prefixes, stage = {}, 0
    for index, child in sorted(children.items()):
        if child == "proj":
            stage += 1
            prefixes[index] = f"stages.{stage}.downsample."
        elif child.isdigit():
            prefixes[index] = f"stages.{stage}.blocks."
        else:
            prefixes[index] = f"stages.{stage}.pos_emb."
    return prefixes
