"""A checkpoint of any layout in, our model folder out.

    read -> fold -> rename -> (quantize) -> save

The folder has `config.json` (see `fastvlm_mlx/model/config.py`), `model*.safetensors`
in the names of `fastvlm_mlx/model/vlm.py`, the tokenizer's files and the source's
licences. What is saved here is loaded with `strict=True` and no code in between.

A fold's result is kept in float32, every other tensor as it was stored, unless a
dtype is asked for: the encoder then gives what the checkpoint's authors trained.
"""

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx.convert.fold.fold_checkpoint import fold_checkpoint, with_encoder_of
from fastvlm_mlx.convert.quantization_check import Agreement, measure
from fastvlm_mlx.convert.save_weights import (
    LICENCES,
    copy_files,
    save_tensors,
)
from fastvlm_mlx.convert.source import checkpoint
from fastvlm_mlx.cpu import openblas
from fastvlm_mlx.device import DTYPES
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import check_tensors
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.quantization import BITS, GROUP_SIZES, is_quantized, quantized
from fastvlm_mlx.weights.weight_files import Tensors, cast

# Copied beside the weights: the tokenizer's files, and the terms they came under.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    *LICENCES,
)


@dataclass(frozen=True)
class Report:
    """What a conversion did; sizes are bytes of weights on disk.

    `agreement` compares a quantized model with its original.
    """

    out: Path
    layout: str
    source_bytes: int
    bytes: int
    agreement: Agreement | None = None


def convert(
    source: Path | str,
    out: Path | str,
    *,
    dtype: str | None = None,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    encoder_from: Path | str | None = None,
    overwrite: bool = False,
    first_wins: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Converts the checkpoint at `source` into the model folder `out`.

    Args:
        source: a folder, `.zip` or weight file in any known layout.
        out: made whole or not at all.
        dtype: of every tensor that is not quantized; by default as stored.
        q_bits: 4 or 8 quantizes the language model; the encoder and the projector
            stay as they are.
        q_group_size: weights that share a scale, 32, 64 (default) or 128.
        encoder_from: another checkpoint to take the vision encoder from.
        overwrite: replaces `out` if it exists.
        first_wins: if another process made `out` meanwhile, leaves it as it is.
        on_progress: called with (bytes done, bytes in all) as tensors are written.
    Raises:
        CheckpointError: the source cannot be read or does not fit together.
        OptionError: an option has an impossible value.
    """
    _check_options(dtype, q_bits, q_group_size)
    openblas.bind()
    source, out = Path(source), Path(out)
    with ExitStack() as stack:
        read = stack.enter_context(checkpoint.opened(source, on_progress))
        if encoder_from is not None:
            other = stack.enter_context(
                checkpoint.opened(Path(encoder_from), on_progress)
            )
            tensors, config = with_encoder_of(read, other)
            other.tensors.clear()
        else:
            tensors, config = fold_checkpoint(read)
        # What is saved is let go at once; nothing else may hold on to it.
        read.tensors.clear()
        if config.text is not None:
            _check_tokenizer(read.folder, config.text.vocab_size)
        agreement = None
        with staged_folder(
            out, overwrite=overwrite, source=source, first_wins=first_wins
        ) as folder:
            if q_bits is not None:
                plain = tensors, config
                tensors, config = _quantize(*plain, q_bits, q_group_size or 64)
                check_tensors(FastVLMModel(config), tensors)
                agreement = measure(*plain, tensors, config, Tokenizer(read.folder))
                del plain
                # Now, or the originals would be kept until these are saved.
                _evaluate_packed(tensors)
            if dtype is not None:
                tensors = cast(tensors, DTYPES[dtype])
            check_tensors(FastVLMModel(config), tensors)
            size = save_tensors(folder, tensors, on_progress)
            _copy_companions(read.folder, config.coreml_encoder, folder)
            (folder / "config.json").write_text(
                json.dumps(config.to_dict(), indent=2) + "\n"
            )
    return Report(out, read.layout.name, read.size, size, agreement)


def _check_tokenizer(folder: Path, vocab_size: int) -> None:
    """A model without its tokenizer is of no use, and a larger one would read past
    the embedding."""
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


def _evaluate_packed(tensors: Tensors) -> None:
    """One layer at a time: quantizing all at once needs a float32 copy of each."""
    for name in tensors:
        if name.endswith(".scales"):
            layer = name.removesuffix("scales")
            mx.eval([tensors[f"{layer}{f}"] for f in ("weight", "scales", "biases")])


def _copy_companions(source: Path, package: str | None, folder: Path) -> None:
    copy_files(source, COMPANIONS, folder)
    if package is not None:
        shutil.copytree(source / package, folder / package)


def _check_options(
    dtype: str | None, q_bits: int | None, q_group_size: int | None
) -> None:
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
