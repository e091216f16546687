"""Turns an open checkpoint into the tensors and the ModelConfig of our format.

The one module that joins `source/` (what was published) and `fold/` (the algebra).
"""

from dataclasses import replace
from typing import Any

from fastvlm_mlx._version import __version__
from fastvlm_mlx.convert.fold.fold_encoder import fold_encoder
from fastvlm_mlx.convert.source import model_config
from fastvlm_mlx.convert.source.checkpoint import Checkpoint
from fastvlm_mlx.convert.source.image_config import read_image_config
from fastvlm_mlx.convert.source.layouts import OWN_LAYOUT
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.weights.quantization import check_packing, dequantized, is_quantized
from fastvlm_mlx.weights.weight_files import Tensors


def fold_checkpoint(checkpoint: Checkpoint) -> tuple[Tensors, ModelConfig]:
    """Folds one checkpoint.

    Returns:
        the tensors in the names of `fastvlm_mlx/model/vlm.py`, lazy, and their config.
    Raises:
        CheckpointError: the checkpoint is incomplete or contradicts its config.
    """
    if checkpoint.layout is OWN_LAYOUT:
        return dict(checkpoint.tensors), ModelConfig.from_dict(checkpoint.config)
    settings = checkpoint.quantization
    vision = projector = text = None
    vision_tensors = dequantized(checkpoint.tensors_of("vision_tower"), settings)
    if vision_tensors:
        pooling, stages = model_config.read_multi_scale(checkpoint.config)
        vision_tensors, vision = fold_encoder(vision_tensors, pooling, stages)
    tensors = checkpoint.tensors_of("language_model")
    if tensors:
        check_packing(tensors, settings)
        model_config.drop_tied_head(tensors)
        text = model_config.build_text_config(checkpoint.config, tensors)
    # mlx-vlm also quantizes the projector; ours stays in floating point.
    projector_tensors = dequantized(checkpoint.tensors_of("projector"), settings)
    if projector_tensors or text:
        projector_tensors, projector = model_config.build_projector(
            projector_tensors, checkpoint.config
        )
    config = ModelConfig(
        vision=vision,
        projector=projector,
        text=text,
        **read_image_config(checkpoint.config, checkpoint.folder, vision),
        template="vicuna" if text and text.model_type == "llama" else "qwen2",
        context_length=model_config.read_context_length(
            checkpoint.config, checkpoint.folder, text
        ),
        coreml_encoder=checkpoint.coreml_encoder.name
        if checkpoint.coreml_encoder
        else None,
        quantization=_remaining_quantization(settings, tensors),
        source={
            "name": checkpoint.name,
            "layout": checkpoint.layout.name,
            "converter": __version__,
        },
    )
    return vision_tensors | projector_tensors | tensors, config


def _remaining_quantization(
    settings: dict[str, Any] | None, tensors: Tensors
) -> dict[str, Any] | None:
    """The quantization settings without the layers that were dequantized."""
    if settings is None or not is_quantized(tensors):
        return None
    layers = {name.removesuffix(".scales") for name in tensors}
    return {
        key: value
        for key, value in settings.items()
        if key in ("group_size", "bits", "mode") or key in layers
    }


def fold_with_encoder_of(
    checkpoint: Checkpoint, donor: Checkpoint
) -> tuple[Tensors, ModelConfig]:
    """`fold_checkpoint` of `checkpoint`, with the vision encoder of `donor`.

    Raises:
        CheckpointError: as `fold_checkpoint`, of either.
        OptionError: `donor` has no encoder, or its features do not fit the projector.
    """
    tensors, config = fold_checkpoint(checkpoint)
    donor_tensors, donor_config = fold_checkpoint(donor)
    if donor_config.vision is None:
        raise OptionError(
            f"--encoder-from {donor.folder}: has no vision encoder; give another"
        )
    projector = config.projector
    if projector and projector.dims[:1] not in ((), (donor_config.vision.feature_dim,)):
        raise OptionError(
            f"--encoder-from {donor.folder}: its features are"
            f" {donor_config.vision.feature_dim} wide, but {checkpoint.name}'s"
            f" projector takes {projector.dims[0]}; give the encoder of the same model"
        )
    others = {n: a for n, a in tensors.items() if not n.startswith("vision_tower.")}
    encoder = {n: a for n, a in donor_tensors.items() if n.startswith("vision_tower.")}
    # Apple's Core ML package, if there was one, holds the replaced encoder.
    config = replace(config, vision=donor_config.vision, coreml_encoder=None)
    return others | encoder, config
