"""`fastvlm-mlx info`: what a model is made of and what it needs, without running it.

Only the headers of the weight files are read, so it is quick for any size, and an
unconverted checkpoint stays unconverted.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import machine, terminal
from fastvlm_mlx.app.info import coreai
from fastvlm_mlx.files.user_path import expand_user

if TYPE_CHECKING:
    from fastvlm_mlx.model.config import ModelConfig
    from fastvlm_mlx.weights.weight_files import Tensors

PARTS = ("vision_tower", "projector", "language_model")
RESOLUTIONS = (256, 512, 768, 1024, 1536, 2048)


def run(
    model: str, *, as_json: bool, refresh: bool = False, adapter: Path | None = None
) -> None:
    """Print what is known about a model."""
    from fastvlm_mlx.app.info.table import table

    terminal.check_stdout()
    if coreai.is_folder(expand_user(model)):
        found = coreai.gather(expand_user(model))
        print(json.dumps(found, indent=2) if as_json else coreai.table(found))
        return
    facts = gather(model, refresh=refresh, adapter=adapter)
    print(json.dumps(facts, indent=2) if as_json else table(facts))


def gather(
    model: str, *, refresh: bool = False, adapter: Path | None = None
) -> dict[str, Any]:
    """Everything `info` says, as `--json` prints it; sizes in bytes.

    Raises:
        AdapterError: the adapter is damaged or of another model.
    """
    from fastvlm_mlx.adapters.files import read_adapter
    from fastvlm_mlx.app.info.adapter import adapter_facts
    from fastvlm_mlx.convert.fold_checkpoint import fold_checkpoint
    from fastvlm_mlx.convert.source import checkpoint, layouts
    from fastvlm_mlx.hub.locate import locate

    tuning = None if adapter is None else read_adapter(adapter)
    source = locate(model, refresh=refresh)
    with checkpoint.open_checkpoint(source) as read:
        tensors, config = fold_checkpoint(read)
        return {
            "model": str(source),
            "layout": config.source.get("layout", read.layout.name),
            "converted": read.layout is layouts.OWN_LAYOUT,
            "bytes": read.size,
            "parameters": parameters(tensors, config),
            **sizes(config),
            "memory": memory(tensors, config),
            "encoder_choice": encoder_choice(
                source, read.layout is layouts.OWN_LAYOUT, config
            ),
            "kept_features": kept_features(),
            "adapter": tuning and adapter_facts(tuning, tensors, config),
            **machine.device_and_versions(),
        }


def parameters(tensors: "Tensors", config: "ModelConfig") -> dict[str, int]:
    """Numbers of parameters per part and in total, quantized ones unpacked."""
    from fastvlm_mlx.weights.quantization import layer_settings

    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, array in tensors.items():
        layer, _, field = name.rpartition(".")
        size = array.size
        if f"{layer}.scales" in tensors and field != "bias":
            _, bits = layer_settings(config.quantization, layer)
            size = size * 32 // bits if field == "weight" else 0
        counts[name.partition(".")[0]] += size
    return {**counts, "total": sum(counts.values())}


def sizes(config: "ModelConfig") -> dict[str, Any]:
    """The config in the words of `info`; a part that is missing is None."""
    found: dict[str, Any] = {
        "vision": None,
        "coreml_encoder": config.coreml_encoder,
        "projector": None,
        "language": None,
        "quantization": None,
        "resolution": config.image_size,
        "fit": config.fit,
        "visual_tokens": None,
    }
    if vision := config.vision:
        found["vision"] = {
            "depths": list(vision.depths),
            "widths": list(vision.embed_dims),
            "features": vision.feature_dim,
        }
        found["visual_tokens"] = {str(r): vision.tokens(r) for r in RESOLUTIONS}
    if projector := config.projector:
        found["projector"] = {"type": projector.type, "widths": list(projector.dims)}
    if text := config.text:
        found["language"] = {
            "type": text.model_type,
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "kv_heads": text.num_key_value_heads,
            "vocabulary": text.vocab_size,
            "tied_embeddings": text.tie_word_embeddings,
            "context": config.context_length,
        }
    if settings := config.quantization:
        found["quantization"] = {key: settings[key] for key in ("bits", "group_size")}
    return found


def encoder_choice(
    source: Path, is_converted: bool, config: "ModelConfig"
) -> dict[str, Any] | None:
    """What `--encoder auto` measured on this machine, if it ever did."""
    from fastvlm_mlx.app.encoder import packages, selection
    from fastvlm_mlx.hub.local_cache import converted_dir
    from fastvlm_mlx.model_folder import is_whole

    folder = source if is_converted else converted_dir(source)
    if not is_converted and not is_whole(folder):
        return None
    package = packages.package_of(folder)
    known = package and selection.remembered(package, config.image_size)
    if not known:
        return None
    return {"encoder": known.encoder, "mlx_ms": known.mlx, "coreml_ms": known.coreml}


def kept_features() -> dict[str, Any]:
    """What `--keep-features` has kept, of all models."""
    from fastvlm_mlx.model.kept_features import kept_features_folder, kept_files

    folder = kept_features_folder()
    sizes = [size for _, size, _ in kept_files(folder)]
    return {"folder": str(folder), "images": len(sizes), "bytes": sum(sizes)}


def memory(tensors: "Tensors", config: "ModelConfig") -> dict[str, Any]:
    """Bytes that a loaded model takes on this device, and a context's growth.

    Passing images through the encoder takes more for a moment, by resolution.
    """
    import mlx.core as mx

    from fastvlm_mlx import device

    dtype = device.device_dtype()
    if device.on_cpu():
        held = parameters(tensors, config)["total"] * dtype.size
    else:
        held = sum(
            array.size * dtype.size
            if mx.issubdtype(array.dtype, mx.floating)
            else array.nbytes
            for array in tensors.values()
        )
    text = config.text
    per_token = 0
    if text:
        heads = 2 * text.num_hidden_layers * text.num_key_value_heads
        per_token = heads * text.head_dim * dtype.size
    return {
        "weights": held,
        "context_token": per_token,
        "dtype": str(dtype).removeprefix("mlx.core."),
    }
