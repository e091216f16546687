"""The folder that Apple's iOS app reads: `fastvlm-mlx export ios SRC OUT`.

Drop it into the app of apple/ml-fastvlm as `app/FastVLM/model`. Read by
https://github.com/apple/ml-fastvlm/blob/592b4add/app/FastVLM/FastVLM.swift

    OUT/config.json                 llava_qwen2, with a real image_token_index
        preprocessor_config.json    read for the image's size
        processor_config.json       names the processor
        tokenizer.json, tokenizer_config.json   with <image> added
        model.safetensors           language_model.*,
                                    multi_modal_projector.linear_0.*, linear_2.*
        fastvithd.mlpackage         images (1,3,R,R) -> image_features (1,tokens,3072)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from fastvlm_mlx.convert import llava_files
from fastvlm_mlx.convert.coreml import mlpackage, verify
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.coreml.verify import Reference, Verdict
from fastvlm_mlx.convert.ios_memory import Estimate, estimate
from fastvlm_mlx.convert.save_weights import LICENCES, copy_files, save_tensors
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.weights.weight_files import Tensors, cast

PACKAGE = "fastvithd.mlpackage"
PROCESSOR = "LlavaProcessor"

# FastVLM.swift's precondition on the encoder's output.
APP_SHAPE = (256, 3072)

# An embedding's rows come in multiples of this, as Qwen2 pads its own.
VOCABULARY_STEP = 64


@dataclass(frozen=True)
class IOSReport:
    """What was written: bytes on disk, verdicts on the package, what a phone needs."""

    out: Path
    bytes: int
    verdicts: tuple[Verdict, ...]
    memory: Estimate
    warnings: tuple[str, ...]


def export(
    source: Path | str,
    out: Path | str,
    options: CoreMLOptions | None = None,
    *,
    q_bits: int | None = 8,
    q_group_size: int = 64,
    images: Sequence[Any] = (),
    overwrite: bool = False,
) -> IOSReport:
    """Writes the app's model folder `out` from any FastVLM checkpoint.

    Args:
        source: a name, folder or zip in any known layout.
        options: of the encoder package.
        q_bits: 4, 8 or None, of the language model; the projector is never quantized.
            Ignored where the source is quantized already.
    Raises:
        CheckpointError: the app cannot run such a model.
        OptionError: an option cannot be honoured, or the package drifts.
    """
    options = options or CoreMLOptions()
    if options.image_input or options.projector:
        option = "--image-input" if options.image_input else "--projector"
        raise OptionError(
            f"export ios {option}: Apple's app passes floats and projects itself;"
            f" leave out {option}, or use export coreml"
        )
    import_coremltools()
    folder, config, tensors = llava_files.read_model(source, "ios")
    tensors, quantization = llava_files.quantize_text(
        tensors, config, None if config.quantization else q_bits, q_group_size
    )
    model = load(folder, dtype="float32")
    sizes = options.sizes(model)
    with staged_folder(out, overwrite=overwrite, source=folder) as partial:
        package = partial / PACKAGE
        found = write_package(model, package, options, sizes, lambda line: None)
        verdicts = verify.judge(mlpackage.read(package), Reference(model, images))
        verify.require(verdicts, str(out), "nothing was written")
        image_id, stop_id = llava_files.write_tokenizer(folder, partial, add_image=True)
        named = with_rows(app_tensors(tensors, config), image_id + 1)
        vocabulary = named["language_model.model.embed_tokens.weight"].shape[0]
        del tensors, model
        text_bytes = save_tensors(partial, named)
        written = llava_files.config_of(config, stop_id)
        written["image_token_index"] = image_id
        written["vocab_size"] = vocabulary
        if quantization is not None:
            written["quantization"] = quantization
        llava_files.write_json(partial / "config.json", written)
        processor = llava_files.image_processor(config, PROCESSOR)
        llava_files.write_json(partial / "preprocessor_config.json", processor)
        # Newer versions of MLX Swift read this file in the other's place.
        processor |= {
            "image_token": llava_files.IMAGE,
            "num_additional_image_tokens": 0,
            "patch_size": config.vision.stride if config.vision else 64,
        }
        llava_files.write_json(partial / "processor_config.json", processor)
        copy_files(folder, LICENCES, partial)
        package_bytes = mlpackage.read(package).bytes
        total = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
    memory = estimate(config, text_bytes, package_bytes, sizes[0])
    caveats = [*found, *_caveats(config, sizes[0]), *memory.warnings()]
    return IOSReport(Path(out), total, tuple(verdicts), memory, tuple(caveats))


def app_tensors(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Our tensors under the app's names, in float16; the encoder is left out.

    Raises:
        CheckpointError: the projector is not the two layers that the app has.
    """
    projector, text = config.projector, config.text
    assert projector and text  # read_model saw to it
    if len(projector.dims) != 3 or projector.dims[1:] != (text.hidden_size,) * 2:
        raise CheckpointError(
            f"export ios: the app has a projector of two layers as wide as the"
            f" language model, and this one is {projector.dims}; use `convert`"
            " for a folder of ours"
        )
    named: Tensors = {}
    for name, array in tensors.items():
        if name.startswith("projector.layers."):
            _, _, index, field = name.split(".")
            named[f"multi_modal_projector.linear_{2 * int(index)}.{field}"] = array
        elif name.startswith("language_model."):
            named[name] = array
    return cast(named, mx.float16)


def with_rows(tensors: Tensors, needed: int) -> Tensors:
    """Adds rows of zeros to the embedding (and the head) where `<image>` has none."""
    out = dict(tensors)
    rows = out["language_model.model.embed_tokens.weight"].shape[0]
    if rows >= needed:
        return out
    extra = -(-needed // VOCABULARY_STEP) * VOCABULARY_STEP - rows
    for layer in ("model.embed_tokens", "lm_head"):
        for field in ("weight", "scales", "biases"):
            name = f"language_model.{layer}.{field}"
            if name in out:
                zeros = mx.zeros((extra, out[name].shape[1]), out[name].dtype)
                out[name] = mx.concatenate([out[name], zeros])
    return out


def _caveats(config: ModelConfig, size: int) -> list[str]:
    assert config.vision is not None
    shape = (config.vision.tokens(size), config.vision.feature_dim)
    found = []
    if shape != APP_SHAPE:
        found.append(
            f"Apple's app insists on {APP_SHAPE} features and this encoder gives"
            f" {shape}; change the precondition in FastVLM.swift"
        )
    if config.fit != "crop":
        found.append(
            f"Apple's app crops images; this model was trained with '{config.fit}',"
            " so hand it square ones"
        )
    return found
