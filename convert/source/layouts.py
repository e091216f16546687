"""Where every tensor of every known layout belongs, in one table.

A layout is told by its tensors' prefixes, never by a shape. Renaming gives
`vision_tower.*` in timm's train-time names, `projector.N.*`, and `language_model.*`
in mlx-lm's; what a prefix does not cover is refused, what we do not need is named.
"""

import re
from dataclasses import dataclass

from fastvlm_mlx.errors import CheckpointError


@dataclass(frozen=True)
class Layout:
    """How one family of checkpoints names its tensors.

    `prefixes` map to ours, the first match wins; `signature` is a prefix that only
    this layout has. `channels_last` layouts store convolutions as (out, kH, kW, in).
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

# A folder that our converter wrote; told by its config.json.
OURS = Layout("fastvlm-mlx", "", (("", ""),))

# Apple's names to timm's, tried in this order, each on the whole name. Apple's flat
# `network.N` is numbered beforehand by `_stages`.
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

# Tensors that inference has no use for: BatchNorm's counters, CLIP's and ImageNet's
# heads, precomputed rotary frequencies.
DROPPED = re.compile(
    r"num_batches_tracked$|^vision_tower\.head\.|rotary_emb\.inv_freq$|^logit_scale$"
)


def detect(names: list[str]) -> Layout:
    """The layout that `names` are written in.

    Raises:
        CheckpointError: none of the known ones.
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
    """Maps each tensor of the checkpoint to our train-time name; dropped ones are
    left out.

    Raises:
        CheckpointError: a name that the layout does not cover.
    """
    stages = _stages(names)
    renamed: dict[str, str] = {}
    origin: dict[str, str] = {}
    for name in names:
        new = _replace_prefix(name, layout)
        if new is None or DROPPED.search(new):
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
    for old, new in layout.prefixes:
        if name.startswith(old):
            return new + name[len(old) :] if new else None
    if DROPPED.search(name):
        return None
    raise CheckpointError(
        f"tensor {name} does not belong to the {layout.name} layout;"
        " the checkpoint is of another model"
    )


def _stages(names: list[str]) -> dict[int, str]:
    """Apple's `network.N.` as timm's stage, told by what each entry holds.

    A downsampling (`network.N.proj.`) opens the next stage, a position encoding
    (`network.N.pe.` or `.reparam_conv.`) belongs to the one it precedes, and blocks
    (`network.N.M.`) are the stage itself: 0 blocks, 1 downsample, 2 blocks, ...
    """
    found: dict[int, str] = {}
    for name in names:
        if match := re.search(_NETWORK.pattern + r"(\w+)\.", name):
            found[int(match[1])] = match[2]
    stages, stage = {}, 0
    for index in sorted(found):
        if found[index] == "proj":
            stage += 1
            stages[index] = f"stages.{stage}.downsample."
        elif found[index].isdigit():
            stages[index] = f"stages.{stage}.blocks."
        else:
            stages[index] = f"stages.{stage}.pos_emb."
    return stages
