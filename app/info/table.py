"""The facts of `info` as lines for people."""

from typing import Any

from fastvlm_mlx.files.disk_space import format_size


def table(facts: dict[str, Any]) -> str:
    """One row per fact, the names in a column."""
    rows = {
        "model": facts["model"],
        "layout": facts["layout"] + (", converted" if facts["converted"] else ""),
        "weights": f"{format_size(facts['bytes'])} on disk, "
        f"{_count(facts['parameters']['total'])} parameters",
        "encoder": _encoder(facts),
        "runs on": _runs_on(facts),
        "projector": _projector(facts),
        "language": _language(facts),
        "quantized": _quantized(facts["quantization"]),
        "images": f"{facts['resolution']} px, {facts['fit']}",
        "tokens": _tokens(facts["visual_tokens"]),
        "memory": _memory(facts["memory"]),
        "features": _kept(facts["kept_features"]),
        **({"adapter": _adapter(facts["adapter"])} if facts["adapter"] else {}),
        "device": f"{facts['device']}, {facts['memory']['dtype']}",
        "BLAS": facts["blas"],
        "versions": ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def _encoder(facts: dict[str, Any]) -> str:
    vision = facts["vision"]
    if vision is None:
        package = facts["coreml_encoder"]
        return f"{package} (Core ML)" if package else "none"
    return (
        f"{_count(facts['parameters']['vision_tower'])}, depths "
        f"{_row(vision['depths'])}, widths {_row(vision['widths'])}, "
        f"{vision['features']} features a token"
    )


def _runs_on(facts: dict[str, Any]) -> str:
    choice = facts["encoder_choice"]
    if choice is None:
        return "MLX" if facts["vision"] else "Core ML, on macOS"
    times = {
        "mlx": _milliseconds("MLX", choice["mlx_ms"]),
        "coreml": _milliseconds("Core ML", choice["coreml_ms"]),
    }
    chosen = times.pop(choice["encoder"])
    return f"{chosen} ({', '.join(times.values())})"


def _milliseconds(encoder: str, median: float | None) -> str:
    return f"{encoder} not timed" if median is None else f"{encoder} {median:.1f} ms"


def _projector(facts: dict[str, Any]) -> str:
    projector = facts["projector"]
    if projector is None:
        return "none"
    count = _count(facts["parameters"]["projector"])
    return f"{count}, {projector['type']} {_row(projector['widths'])}".rstrip()


def _language(facts: dict[str, Any]) -> str:
    text = facts["language"]
    if text is None:
        return "none"
    return (
        f"{_count(facts['parameters']['language_model'])}, {text['type']}, "
        f"{text['layers']} layers, width {text['width']}, {text['heads']} heads "
        f"({text['kv_heads']} of keys), vocabulary {text['vocabulary']}"
        f"{' (tied)' if text['tied_embeddings'] else ''}, context {text['context']}"
    )


def _quantized(settings: dict[str, int] | None) -> str:
    if settings is None:
        return "no"
    return f"language model, {settings['bits']} bits in groups of " + str(
        settings["group_size"]
    )


def _tokens(tokens: dict[str, int] | None) -> str:
    if tokens is None:
        return "none without an encoder"
    return ", ".join(f"{n} at {size}" for size, n in tokens.items())


def _memory(memory: dict[str, Any]) -> str:
    text = f"{format_size(memory['weights'])} of weights in {memory['dtype']}"
    if memory["context_token"]:
        text += f", {format_size(1000 * memory['context_token'])} per 1000 tokens"
    return f"{text}; images take more while they are encoded"


def _kept(kept: dict[str, Any]) -> str:
    if not kept["images"]:
        return f"none kept in {kept['folder']}"
    count = f"{kept['images']} image{'' if kept['images'] == 1 else 's'}"
    size = format_size(kept["bytes"])
    return f"{count} kept, {size}, in {kept['folder']}; delete it to clear them"


def _adapter(adapter: dict[str, Any]) -> str:
    count, layers = _count(adapter["parameters"]), adapter["layers"]
    text = f"{adapter['name']}: {adapter['method']}, {count} parameters"
    if adapter["rank"]:
        text += f", rank {adapter['rank']}, scale {adapter['scale']:g}"
        text += f", {' '.join(adapter['keys'])} of {layers} layers"
    if adapter["projector"]:
        text += ", with a projector"
    if adapter["base"] is None:
        text += "; does not say of which model"
    return text


def _row(numbers: list[int]) -> str:
    return "-".join(map(str, numbers))


def _count(number: int) -> str:
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.1f}{unit}"
    return str(number)
