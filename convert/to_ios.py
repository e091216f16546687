"""Writes the model folder of Apple's iOS app: `fastvlm-mlx export ios SRC OUT`.

Copy it into the app of apple/ml-fastvlm as `app/FastVLM/model`. It is read by
https://github.com/apple/ml-fastvlm/blob/592b4add/app/FastVLM/FastVLM.swift

    OUT/config.json                 llava_qwen2, with a real image_token_index
        preprocessor_config.json    the size of the image
        processor_config.json       the name of the processor
        tokenizer.json, tokenizer_config.json   with <image> added
        model.safetensors           language_model.*,
                                    multi_modal_projector.linear_0.*, linear_2.*
        fastvithd.mlpackage         images (1,3,R,R) -> image_features (1,tokens,3072)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx.adapters.files import Adapter
from fastvlm_mlx.convert import llava_files
from fastvlm_mlx.convert.coreml import mlpackage, verify
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.coreml.verify import Verdict
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.ios_memory import MemoryEstimate, estimate_memory
from fastvlm_mlx.convert.outputs import IOS_PACKAGE, MODEL_FOLDER
from fastvlm_mlx.convert.save_weights import LICENCE_FILES, copy_files, save_tensors
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.processing.image_file import Source
from fastvlm_mlx.weights.weight_files import Tensors, cast, reading

PROCESSOR = "LlavaProcessor"

# FastVLM.swift's precondition on the encoder's output.
APP_SHAPE = (256, 3072)


@dataclass(frozen=True)
class IOSReport:
    """The result of an export.

    Attributes:
        out: the folder that was written.
        bytes: its size on disk.
        verdicts: a comparison of each function of the package with the MLX encoder.
        memory: the estimated memory on a phone.
        warnings: what the app's code or a phone may not support, one line each.
    """

    out: Path
    bytes: int
    verdicts: tuple[Verdict, ...]
    memory: MemoryEstimate
    warnings: tuple[str, ...]


@cpu_only()
@reading()
def export(
    source: Path | str,
    out: Path | str,
    options: CoreMLOptions | None = None,
    *,
    q_bits: int | None = 8,
    q_group_size: int = 64,
    images: Sequence[Source] = (),
    adapter: Adapter | Path | str | None = None,
    overwrite: bool = False,
) -> IOSReport:
    """Writes the app's model folder `out` from any FastVLM checkpoint.

    Args:
        source: a name, hub id, folder or `.zip` in any known layout.
        out: the folder to write. It appears when it is complete.
        options: of the encoder package.
        q_bits: 4, 8 or None, of the language model; the projector is never quantized.
            Ignored if the source is quantized already.
        q_group_size: weights that share a scale: 32, 64 or 128.
        images: compared on these; two photographs of ours by default.
        adapter: one to merge into the float weights first, or its folder.
        overwrite: replaces `out` if it is a model folder that this program wrote.
    Raises:
        AdapterError: the adapter cannot be read or merged into this model.
        CheckpointError: the app cannot run such a model.
        OptionError: an option cannot be honoured, or the package agrees too little
            with the MLX encoder.
    """
    options = options or CoreMLOptions()
    out = Path(os.path.expanduser(out))
    if options.image_input or options.projector:
        option = "--image-input" if options.image_input else "--projector"
        raise OptionError(
            f"export ios {option}: Apple's app passes floats and projects itself;"
            f" leave out {option}, or use fastvlm-mlx export coreml"
        )
    import_coremltools()
    llava_files.check_quantization(q_bits, q_group_size)
    folder, config, tensors = llava_files.read_model(source, "ios", adapter)
    model = llava_files.vision_model(tensors, config)
    tensors, quantization = llava_files.quantize_language_model(
        tensors, config, None if config.quantization else q_bits, q_group_size
    )
    sizes = options.sizes(model)
    with staged_folder(
        out, overwrite=overwrite, kind=MODEL_FOLDER, source=folder
    ) as partial:
        package = partial / IOS_PACKAGE
        lossy = write_package(model, package, options, sizes, lambda line: None)
        verdicts = verify.judge(mlpackage.read(package), Reference(model, images))
        verify.require(verdicts, str(out), "nothing was written")
        image_id, stop_id = llava_files.write_tokenizer(folder, partial, add_image=True)
        named = rename_for_app(tensors, config)
        named = llava_files.add_embedding_rows(named, image_id + 1)
        vocabulary = named["language_model.model.embed_tokens.weight"].shape[0]
        del tensors, model
        text_bytes = save_tensors(partial, named)
        written = llava_files.llava_config(config, stop_id)
        written["image_token_index"] = image_id
        written["vocab_size"] = vocabulary
        if quantization is not None:
            written["quantization"] = quantization
        llava_files.write_json(partial / "config.json", written)
        processor = llava_files.preprocessor_config(config, PROCESSOR)
        llava_files.write_json(partial / "preprocessor_config.json", processor)
        # Newer versions of MLX Swift read this file instead.
        processor |= {
            "image_token": llava_files.IMAGE_TOKEN,
            "num_additional_image_tokens": 0,
            "patch_size": config.vision.stride if config.vision else 64,
        }
        llava_files.write_json(partial / "processor_config.json", processor)
        copy_files(folder, LICENCE_FILES, partial)
        package_bytes = mlpackage.read(package).bytes
        total = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
    memory = estimate_memory(config, text_bytes, package_bytes, sizes[0])
    warnings = (*lossy, *_app_warnings(config, sizes[0]), *memory.warnings())
    return IOSReport(out, total, tuple(verdicts), memory, warnings)


def rename_for_app(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Renames our tensors for the app, in float16, without the encoder.

    Raises:
        CheckpointError: the projector is not the two layers that the app has.
    """
    projector, text = config.projector, config.text
    assert projector and text  # checked by read_model
    if len(projector.dims) != 3 or projector.dims[1:] != (text.hidden_size,) * 2:
        raise CheckpointError(
            "export ios: the app has a projector of two layers as wide as the"
            f" language model, and this one is {projector.dims};"
            " use fastvlm-mlx convert"
        )
    named: Tensors = {}
    for name, array in tensors.items():
        if name.startswith("projector.layers."):
            _, _, index, field = name.split(".")
            named[f"multi_modal_projector.linear_{2 * int(index)}.{field}"] = array
        elif name.startswith("language_model."):
            named[name] = array
    return cast(named, mx.float16)


def _app_warnings(config: ModelConfig, size: int) -> list[str]:
    assert config.vision is not None
    shape = (config.vision.tokens(size), config.vision.feature_dim)
    warnings = []
    if shape != APP_SHAPE:
        warnings.append(
            f"Apple's app insists on {APP_SHAPE} features and this encoder gives"
            f" {shape}; change the precondition in FastVLM.swift"
        )
    if config.fit != "crop":
        warnings.append(
            f"Apple's app crops images; this model was trained with '{config.fit}',"
            " so hand it square ones"
        )
    return warnings
