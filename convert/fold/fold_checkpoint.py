"""The parts of a read checkpoint, folded and described: tensors and their config."""

from dataclasses import replace
from typing import Any

from fastvlm_mlx._version import __version__
from fastvlm_mlx.convert.fold.fold_encoder import fold_encoder
from fastvlm_mlx.convert.source import model_config
from fastvlm_mlx.convert.source.checkpoint import Checkpoint
from fastvlm_mlx.convert.source.image_config import image_settings
from fastvlm_mlx.convert.source.layouts import OURS
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.weights.quantization import check_packing, dequantized, is_quantized
from fastvlm_mlx.weights.weight_files import Tensors


def fold_checkpoint(read: Checkpoint) -> tuple[Tensors, ModelConfig]:
    """Folds and renames one checkpoint: our tensors, unread until saved, and their
    config."""
    if read.layout is OURS:
        return dict(read.tensors), ModelConfig.from_dict(read.config)
    settings = read.quantization
    vision = projector = text = None
    vision_tensors = dequantized(read.part("vision_tower"), settings)
    if vision_tensors:
        pooling, stages = model_config.multi_scale(read.config)
        vision_tensors, vision = fold_encoder(vision_tensors, pooling, stages)
    tensors = read.part("language_model")
    if tensors:
        check_packing(tensors, settings)
        model_config.tie_embeddings(tensors)
        text = model_config.text_config(read.config, tensors)
    # mlx-vlm also quantizes the projector; ours stays in floating point.
    projector_tensors = dequantized(read.part("projector"), settings)
    if projector_tensors or text:
        projector_tensors, projector = model_config.projector(
            projector_tensors, read.config
        )
    config = ModelConfig(
        vision=vision,
        projector=projector,
        text=text,
        **image_settings(read.config, read.folder, vision),
        template="vicuna" if text and text.model_type == "llama" else "qwen2",
        context_length=model_config.context_length(read.config, read.folder, text),
        coreml_encoder=read.coreml_encoder.name if read.coreml_encoder else None,
        quantization=_kept(settings, tensors),
        source={
            "name": read.name,
            "layout": read.layout.name,
            "converter": __version__,
        },
    )
    return vision_tensors | projector_tensors | tensors, config


def _kept(settings: dict[str, Any] | None, tensors: Tensors) -> dict[str, Any] | None:
    """The settings of the layers that stay quantized."""
    if settings is None or not is_quantized(tensors):
        return None
    layers = {name.removesuffix(".scales") for name in tensors}
    return {
        key: value
        for key, value in settings.items()
        if key in ("group_size", "bits", "mode") or key in layers
    }


def with_encoder_of(read: Checkpoint, other: Checkpoint) -> tuple[Tensors, ModelConfig]:
    """`assemble` of `read` with the vision tower of `other` in place of its own.

    Raises:
        OptionError: `other` has no encoder, or one of another width.
    """
    (tensors, config), (donor, donor_config) = (
        fold_checkpoint(read),
        fold_checkpoint(other),
    )
    if donor_config.vision is None:
        raise OptionError(
            f"--encoder-from {other.folder}: has no vision encoder; give another"
        )
    projector = config.projector
    if projector and projector.dims[:1] not in ((), (donor_config.vision.feature_dim,)):
        raise OptionError(
            f"--encoder-from {other.folder}: its features are"
            f" {donor_config.vision.feature_dim} wide, but {read.name}'s projector"
            f" takes {projector.dims[0]}; give the encoder of the same model"
        )
    tensors = {n: a for n, a in tensors.items() if not n.startswith("vision_tower.")}
    tensors |= {n: a for n, a in donor.items() if n.startswith("vision_tower.")}
    return tensors, replace(
        config,
        vision=donor_config.vision,
        coreml_encoder=None,
    )
