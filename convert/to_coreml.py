"""Exports a loaded model's vision encoder as a Core ML package, without torch.

    MLX modules -> MIL program -> three passes -> written -> read back -> compared

The package is written under a temporary name, read back, evaluated and compared with
the MLX encoder on real images. It is renamed to its final name only if it agrees.
"""

import contextlib
import gc
import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx._version import __version__
from fastvlm_mlx.convert.coreml import mlpackage, verify
from fastvlm_mlx.convert.coreml.device import DeviceVerdict, judge_on_device
from fastvlm_mlx.convert.coreml.mil_encoder import EncoderBuilder
from fastvlm_mlx.convert.coreml.mil_weights import Weights
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.coreml.verify import Verdict
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS, FEATURES, IMAGES
from fastvlm_mlx.convert.outputs import PACKAGE
from fastvlm_mlx.convert.temporary_files import least_bytes, temporary_files_in
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import Source

SUFFIX = ".mlpackage"

# The default pipeline takes 9 s more and stores the same bytes.
PASSES = [
    "common::const_deduplication",
    "common::dead_code_elimination",
    "common::dedup_op_and_var_names",
]

Notify = Callable[[str], None]


@dataclass(frozen=True)
class CoreMLReport:
    """The result of an export.

    Attributes:
        out: the package.
        bytes: its size on disk.
        verdicts: a comparison of each function with the MLX encoder.
        warnings: weights that float16 cannot hold, one line each.
        on_device: on a Mac, a comparison for each compute-unit setting: advice, with
            the `problem` of each that cannot be used.
    """

    out: Path
    bytes: int
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    on_device: tuple[DeviceVerdict, ...] = ()


@cpu_only()
def export(
    model: FastVLMModel,
    out: Path | str,
    options: CoreMLOptions | None = None,
    *,
    images: Sequence[Source] = (),
    strict: bool = False,
    overwrite: bool = False,
    notify: Notify | None = None,
) -> CoreMLReport:
    """Exports the vision encoder of `model` to `out`.

    Args:
        model: loaded in float32.
        out: NAME.mlpackage. It appears when it is complete and agrees.
        options: the defaults suit the Neural Engine.
        images: compared on these; two photographs of ours by default.
        strict: compares also with every intermediate rounded to float16.
        overwrite: replaces `out` if it is a package that this program wrote.
        notify: called with one line as each step starts.
    Raises:
        OptionError: an option cannot be honoured, coremltools is not installed, or
            the package agrees too little with the MLX encoder.
        CheckpointError: the model has no encoder.
    """
    options = options or CoreMLOptions()
    out = Path(os.path.expanduser(out))
    if out.suffix != SUFFIX:
        raise OptionError(f"{out}: a Core ML package is called NAME{SUFFIX}")
    sizes = options.sizes(model)
    import_coremltools()
    say = notify or (lambda line: None)
    reference = Reference(model, images)
    with staged_folder(out, overwrite=overwrite, kind=PACKAGE) as folder:
        package = folder / f"encoder{SUFFIX}"
        found = write_package(model, package, options, sizes, say)
        say("comparing it with the MLX encoder")
        verdicts = verify.judge(mlpackage.read(package), reference, strict=strict)
        verify.require(
            verdicts,
            str(out),
            "nothing was written; use --precision float32 or a milder --compress",
        )
        for part in list(package.iterdir()):
            part.rename(folder / part.name)
        package.rmdir()
    written = mlpackage.read(out)
    on_device = []
    if sys.platform == "darwin":
        # Advice, and Core ML may take minutes: the package is in its place before.
        say("comparing it on every compute unit")
        on_device = judge_on_device(written, reference)
    return CoreMLReport(
        out, written.bytes, tuple(verdicts), tuple(found), tuple(on_device)
    )


def write_package(
    model: FastVLMModel,
    package: Path,
    options: CoreMLOptions,
    sizes: tuple[int, ...],
    say: Notify,
) -> list[str]:
    """Writes `package` without a comparison; returns the warnings about its weights.

    Raises:
        OptionError: there is too little room on the disk.
        OSError: the disk became full.
    """
    found: dict[str, None] = {}
    parts = []
    projector = model.projector if options.projector else None
    # coremltools writes the weights, then copies them.
    needed = 2 * least_bytes(
        (model.vision_tower, projector),
        options.precision,
        compressed=options.compression is not None,
    )
    check_free_space(package.parent, needed)
    with temporary_files_in(package.with_name("temporary"), needed):
        for size in sizes:
            say(f"building the program of {size} px")
            part = package if len(sizes) == 1 else package.with_name(f"{size}{SUFFIX}")
            with quiet_coremltools():
                found |= dict.fromkeys(_build(model, part, options, size))
            parts.append(part)
        if len(sizes) > 1:
            say("sharing the weights of all sizes")
            with quiet_coremltools():
                _join(parts, sizes, package)
        _describe(package, model.config, options)
    return list(found)


def _build(
    model: FastVLMModel, part: Path, options: CoreMLOptions, size: int
) -> list[str]:
    tools: Any = import_coremltools()
    target = tools.target.iOS18 if options.modern else tools.target.iOS17
    weights = Weights(options.precision, options.compression, options.modern)
    projector = model.projector if options.projector else None
    assert model.vision_tower is not None  # checked by `options.sizes`
    builder = EncoderBuilder(model.vision_tower, projector, options, weights)
    image = tools.ImageType(
        name=IMAGES, shape=(1, 3, size, size), color_layout=tools.colorlayout.RGB
    )
    tools.convert(
        builder.program(size, target),
        inputs=[image] if options.image_input else None,
        convert_to="mlprogram",
        # The program has its final types: FLOAT32 adds no pass that casts.
        compute_precision=tools.precision.FLOAT32,
        package_dir=str(part),
        minimum_deployment_target=target,
        skip_model_load=True,
        pass_pipeline=tools.PassPipeline(PASSES, "fastvlm"),
    )
    del builder
    gc.collect()
    return weights.warnings


def _join(parts: list[Path], sizes: tuple[int, ...], package: Path) -> None:
    tools: Any = import_coremltools()
    joined = tools.utils.MultiFunctionDescriptor()
    for part, size in zip(parts, sizes, strict=True):
        joined.add_function(
            str(part),
            src_function_name="main",
            target_function_name=function_name(size),
        )
    joined.default_function_name = function_name(sizes[0])
    tools.utils.save_multifunction(joined, str(package))
    for part in parts:
        shutil.rmtree(part)


def function_name(size: int) -> str:
    """The name of the function of one resolution, in a package of several."""
    return f"image_{size}"


def _describe(package: Path, config: ModelConfig, options: CoreMLOptions) -> None:
    """Writes the metadata that Xcode shows, and makes the files world-readable."""
    spec = mlpackage.read_spec(package)
    source = config.source.get("name", "unknown")
    metadata = spec.description.metadata
    metadata.shortDescription = (
        "FastVLM's vision encoder (FastViTHD): one square image to visual tokens"
        + (" in the language model's space" if options.projector else "")
        + "."
    )
    metadata.author = f"Converted by fastvlm-mlx {__version__} from {source}"
    metadata.license = (
        "That of the source checkpoint; Apple's FastVLM weights are for research only"
        " (https://huggingface.co/apple/FastVLM-0.5B/blob/main/LICENSE)"
    )
    metadata.versionString = __version__
    metadata.userDefined.update(
        {
            "source": source,
            "source_layout": str(config.source.get("layout", "")),
            "preprocessing": f"{config.fit} to a square, bicubic, RGB, "
            + ("bytes 0..255" if options.image_input else "divided by 255"),
            "fit": config.fit,
            "precision": options.precision,
            "compression": options.compression or "none",
            "attention": options.attention,
            "norm_prescale": str(options.norm_prescale),
            "converter": f"fastvlm-mlx {__version__}",
        }
    )
    scale = "a buffer of bytes" if options.image_input else "floats in 0..1"
    said = {
        IMAGES: f"One RGB image (1, 3, R, R), {scale}, fitted by '{config.fit}'.",
        FEATURES: "Visual features (1, tokens, width), row by row; (R / 64)^2 tokens.",
        EMBEDDINGS: "Visual embeddings (1, tokens, hidden), row by row.",
    }
    for each in spec.description.functions or [spec.description]:
        for feature in [*each.input, *each.output]:
            feature.shortDescription = said.get(feature.name, "")
    mlpackage.spec_file(package).write_bytes(spec.SerializeToString(deterministic=True))
    # coremltools leaves them readable to their owner only.
    for path in package.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextlib.contextmanager
def quiet_coremltools() -> Iterator[None]:
    """Suppresses coremltools' progress bars and deprecation warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
