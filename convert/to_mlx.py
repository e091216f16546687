"""Converts a checkpoint of any known layout into a model folder of our format.

    open -> rename -> fold -> (quantize) -> save

The folder has `config.json` (see `fastvlm_mlx/model/config.py`), `model*.safetensors`
in the names of `fastvlm_mlx/model/vlm.py`, the tokenizer's files and the source's
licence files. `load` reads it with `strict=True` and changes no tensor.

Folded tensors are saved in float32 and all others as stored, unless a dtype is given:
so the encoder computes what the published one does.
"""

import json
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx.adapters.files import Adapter, read_adapter
from fastvlm_mlx.adapters.merge import merge_into
from fastvlm_mlx.convert.fold_checkpoint import fold_checkpoint, fold_with_encoder_of
from fastvlm_mlx.convert.outputs import MODEL_FOLDER
from fastvlm_mlx.convert.quantization_check import Agreement, measure_agreement
from fastvlm_mlx.convert.save_weights import (
    LICENCE_FILES,
    copy_files,
    save_tensors,
)
from fastvlm_mlx.convert.source.checkpoint import open_checkpoint
from fastvlm_mlx.cpu import openblas
from fastvlm_mlx.device import DTYPES, check_not_forked, cpu_only
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import check_tensors
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.quantization import BITS, GROUP_SIZES, is_quantized, quantized
from fastvlm_mlx.weights.weight_files import Tensors, cast, reading

# Copied beside the weights.
COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    *LICENCE_FILES,
)


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Attributes:
        out: the folder that was written.
        layout: the layout of the source, a name of `source/layouts.py`.
        source_bytes: bytes of the source's weight files.
        bytes: bytes of the weights written.
        agreement: a comparison with the original, if the model was quantized.
    """

    out: Path
    layout: str
    source_bytes: int
    bytes: int
    agreement: Agreement | None = None


@cpu_only()
def convert(
    source: Path | str,
    out: Path | str,
    *,
    dtype: str | None = None,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    encoder_from: Path | str | None = None,
    adapter: Adapter | Path | str | None = None,
    overwrite: bool = False,
    first_wins: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Converts the checkpoint at `source` into the model folder `out`.

    Example:
        >>> from fastvlm_mlx import load
        >>> from fastvlm_mlx.convert.to_mlx import convert
        >>> from fastvlm_mlx.hub.locate import locate
        >>> report = convert(locate("demo"), "demo-8bit", q_bits=8)
        >>> f"{report.agreement.top1:.0%} the same next token"
        >>> load("demo-8bit").ask("Describe the image.", "examples/number.png")

    Args:
        source: a folder, `.zip` or weight file in any known layout. For a hub id or a
            short name such as `0.5b` pass `locate(name)`, which downloads it.
        out: the folder to write. It appears when it is complete; if anything fails,
            nothing is left behind.
        dtype: `float32`, `float16` or `bfloat16`, of every tensor that is not
            quantized; by default as stored.
        q_bits: 4 or 8 quantizes the language model; the encoder and the projector are
            never quantized.
        q_group_size: weights that share a scale: 32, 64 (default) or 128.
        encoder_from: another checkpoint to take the vision encoder from.
        adapter: one to merge into the float weights first, or its folder.
        overwrite: replaces `out` if it is a model folder that this program wrote.
        first_wins: keeps `out` as it is, without an error, if another process wrote
            it meanwhile.
        on_progress: called with (bytes done, bytes in all) while tensors are written.
    Returns:
        sizes, and for `q_bits` the agreement with the original.
    Raises:
        AdapterError: the adapter cannot be read or merged into this model.
        CheckpointError: the source is unknown, damaged or incomplete.
        OptionError: an option has an impossible value, or `out` exists.
    """
    check_options(dtype, q_bits, q_group_size)
    check_not_forked()
    openblas.bind()
    source, out = (Path(os.path.expanduser(path)) for path in (source, out))
    if isinstance(adapter, str | Path):
        adapter = read_adapter(adapter)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(source, on_progress))
        if encoder_from is not None:
            donor = stack.enter_context(
                open_checkpoint(Path(encoder_from), on_progress)
            )
            tensors, config = fold_with_encoder_of(checkpoint, donor)
            donor.tensors.clear()
        else:
            tensors, config = fold_checkpoint(checkpoint)
        # `save_tensors` frees each tensor once it is saved: keep no other reference.
        checkpoint.tensors.clear()
        if adapter is not None:
            tensors, config = merge_into(tensors, config, adapter)
        if config.text is not None:
            _check_tokenizer(checkpoint.folder, config.text.vocab_size)
        agreement = None
        with staged_folder(
            out,
            overwrite=overwrite,
            kind=MODEL_FOLDER,
            source=source,
            first_wins=first_wins,
        ) as folder:
            if q_bits is not None:
                original, original_config = tensors, config
                tensors, config = _quantize(
                    original, original_config, q_bits, q_group_size or 64
                )
                check_tensors(FastVLMModel(config), tensors)
                agreement = measure_agreement(
                    original,
                    original_config,
                    tensors,
                    config,
                    Tokenizer(checkpoint.folder),
                )
                del original
                # Lazy quantized tensors would keep the originals in memory.
                _evaluate_quantized(tensors)
            if dtype is not None:
                tensors = cast(tensors, DTYPES[dtype])
            check_tensors(FastVLMModel(config), tensors)
            with reading(source):
                size = save_tensors(folder, tensors, on_progress)
            _copy_companions(checkpoint.folder, config.coreml_encoder, folder)
            (folder / "config.json").write_text(
                json.dumps(config.to_dict(), indent=2) + "\n"
            )
    return Report(out, checkpoint.layout.name, checkpoint.size, size, agreement)


def _check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Refuses a missing tokenizer, and one with ids beyond the embedding."""
    size = len(Tokenizer(folder))
    if size > vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {size} tokens, but the language model only"
            f" {vocab_size}; get the tokenizer of this model"
        )


def _quantize(
    tensors: Tensors, config: ModelConfig, bits: int, group_size: int
) -> tuple[Tensors, ModelConfig]:
    if is_quantized(tensors):
        raise OptionError(
            f"--q-bits {bits}: the checkpoint is quantized already;"
            " convert it from the floating-point one"
        )
    if config.text is None:
        raise OptionError(
            f"--q-bits {bits}: only the language model is quantized, and this"
            " checkpoint has none"
        )
    settings = {"group_size": group_size, "bits": bits}
    return (
        quantized(tensors, bits, group_size),
        replace(config, quantization=settings),
    )


def _evaluate_quantized(tensors: Tensors) -> None:
    """Evaluates one layer at a time: each needs a float32 copy while it is packed."""
    for name in tensors:
        if name.endswith(".scales"):
            layer = name.removesuffix("scales")
            mx.eval([tensors[f"{layer}{f}"] for f in ("weight", "scales", "biases")])


def _copy_companions(source: Path, package: str | None, folder: Path) -> None:
    copy_files(source, COMPANION_FILES, folder)
    if package is not None:
        shutil.copytree(source / package, folder / package)


def check_options(
    dtype: str | None, q_bits: int | None, q_group_size: int | None
) -> None:
    """Refuses impossible values before anything is read.

    Raises:
        OptionError: names the option and what it may be.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"--dtype {dtype}: unknown; use {', '.join(DTYPES)}")
    if q_bits is not None and q_bits not in BITS:
        raise OptionError(f"--q-bits {q_bits}: use {' or '.join(map(str, BITS))}")
    if q_group_size is not None and q_group_size not in GROUP_SIZES:
        raise OptionError(
            f"--q-group-size {q_group_size}: use {', '.join(map(str, GROUP_SIZES))}"
        )
    if q_group_size is not None and q_bits is None:
        raise OptionError(f"--q-group-size {q_group_size}: needs --q-bits 4 or 8")
