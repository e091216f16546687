"""Writes the folder of a Core AI vision language model, without torch.

    OUT/metadata.json     what apple/coreai-models' runner reads first
        vision.aimodel    images (1,3,R,R) -> image_embeddings (1,tokens,hidden)
        embed.aimodel     input_ids (1,n) -> embeddings (1,n,hidden)
        language.aimodel  inputs_embeds (1,n,hidden), position_ids (1,past+n), and the
                          states k_cache, v_cache -> logits (1,n,vocabulary)
        tokenizer/        with <image> added
        LICENSE           and the other texts of the checkpoint

Every asset is written under a temporary name, run by Apple's Core AI runtime and
compared with MLX on real images; the folder gets its name only if all agree.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.adapters.files import Adapter
from fastvlm_mlx.convert import llava_files
from fastvlm_mlx.convert.coreai import asset, language, programs, verify
from fastvlm_mlx.convert.coreai.bundle import bundle_metadata
from fastvlm_mlx.convert.coreai.decoder import Weight
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreai.verify import Verdict
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.outputs import (
    COREAI_ASSET,
    COREAI_FOLDER,
    COREAI_METADATA,
    converter,
)
from fastvlm_mlx.convert.save_weights import LICENCE_FILES, copy_files
from fastvlm_mlx.convert.temporary_files import least_bytes, temporary_files_in
from fastvlm_mlx.coreai_runtime import import_coreai
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import Source
from fastvlm_mlx.weights.quantization import dequantized
from fastvlm_mlx.weights.weight_files import Tensors, reading

VISION, EMBED, LANGUAGE = "vision.aimodel", "embed.aimodel", "language.aimodel"

EMBED_WEIGHT = "language_model.model.embed_tokens"

Notify = Callable[[str], None]


@dataclass(frozen=True)
class CoreAIReport:
    """The result of an export.

    Attributes:
        out: the folder.
        bytes: its size on disk.
        verdicts: a comparison of each function with MLX, by Apple's runtime.
        warnings: weights that float16 cannot hold, one line each.
    """

    out: Path
    bytes: int
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]


@cpu_only()
@reading()
def export(
    source: Path | str,
    out: Path | str,
    options: CoreAIOptions | None = None,
    *,
    images: Sequence[Source] = (),
    adapter: Adapter | Path | str | None = None,
    overwrite: bool = False,
    notify: Notify | None = None,
) -> CoreAIReport:
    """Writes the Core AI folder `out` from any FastVLM checkpoint.

    Args:
        source: a name, hub id, folder or `.zip` in any known layout.
        out: the folder to write. It appears when it is complete and agrees.
        options: the defaults are what Apple's runner reads.
        images: compared on these; two photographs of ours by default.
        adapter: one to merge into the float weights first, or its folder.
        overwrite: replaces `out` if it is a Core AI folder that this program wrote.
        notify: called with one line as each step starts.
    Raises:
        AdapterError: the adapter cannot be read or merged into this model.
        CheckpointError: Apple's runner cannot run such a model.
        OptionError: an option cannot be honoured, coreai-core is not installed, or
            an asset agrees too little with MLX.
    """
    options = options or CoreAIOptions()
    out = Path(os.path.expanduser(out))
    import_coreai()
    folder, config, tensors = llava_files.read_model(source, "coreai", adapter)
    sizes = options.sizes(config)
    say = notify or (lambda line: None)
    with staged_folder(
        out, overwrite=overwrite, kind=COREAI_FOLDER, source=folder
    ) as partial:
        (partial / "tokenizer").mkdir()
        image_id, _ = llava_files.write_tokenizer(
            folder, partial / "tokenizer", add_image=True
        )
        table = embedding_table(tensors, config, image_id + 1, options.precision)
        model = llava_files.vision_model(tensors, config)
        reference = Reference(model, images)
        needed = _needed(model, table, options, tensors)
        check_free_space(partial, needed)
        # Core AI compiles each asset into the temporary folder before it runs.
        with temporary_files_in(partial / "temporary", needed):
            verdicts, lossy = _write_vision(
                model, partial / VISION, options, sizes, reference, say
            )
            verdicts.append(_write_embed(table, partial / EMBED, options, config, say))
            del model, reference
            verdicts.append(
                _write_language(
                    tensors, table, partial / LANGUAGE, options, config, say
                )
            )
        verify.require(
            verdicts,
            str(out),
            "nothing was written; use --precision float32 or a milder --compress",
        )
        written = bundle_metadata(
            out.name,
            config,
            options,
            assets={"main": LANGUAGE, "vision": VISION, "embedding": EMBED},
            size=sizes[0],
            image_id=image_id,
            vocabulary=len(table),
        )
        llava_files.write_json(partial / COREAI_METADATA, written)
        copy_files(folder, LICENCE_FILES, partial)
        total = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
    return CoreAIReport(out, total, tuple(verdicts), tuple(lossy))


@cpu_only()
def export_encoder(model: FastVLMModel, out: Path) -> None:
    """Writes the encoder of `model`, without its projector, as the asset `out`.

    Args:
        model: loaded in float32.
        out: NAME.aimodel, which does not exist.
    Raises:
        OptionError: it agrees too little with MLX, or the disk is full.
    """
    options = CoreAIOptions(projector=False)
    sizes = options.sizes(model.config)
    with staged_folder(out, kind=COREAI_ASSET, first_wins=True) as partial:
        path = partial / VISION
        needed = 2 * least_bytes((model.vision_tower,), "float16", compressed=False)
        with temporary_files_in(partial / "temporary", needed):
            verdicts, _ = _write_vision(
                model, path, options, sizes, Reference(model), lambda line: None
            )
        verify.require(verdicts, str(out), "nothing was written; use --encoder mlx")
        for part in list(path.iterdir()):
            part.rename(partial / part.name)
        path.rmdir()


def _needed(
    model: FastVLMModel, table: np.ndarray, options: CoreAIOptions, tensors: Tensors
) -> int:
    projector = model.projector if options.projector else None
    encoder = least_bytes(
        (model.vision_tower, projector),
        options.precision,
        compressed=options.compression is not None,
    )
    count = sum(
        array.size for n, array in tensors.items() if n.startswith("language_model.")
    )
    decoder = count * (options.q_bits or 8 * table.itemsize) // 8
    sizes = (encoder, table.nbytes, decoder)
    # One at a time is there twice: as written, and as compiled to be compared.
    return sum(sizes) + max(sizes)


def _write_vision(
    model: FastVLMModel,
    path: Path,
    options: CoreAIOptions,
    sizes: tuple[int, ...],
    reference: Reference,
    say: Notify,
) -> tuple[list[Verdict], list[str]]:
    say(f"building the encoder's program of {', '.join(map(str, sizes))} px")
    program, lossy = programs.vision_program(model, options, sizes)
    what = "FastVLM's vision encoder (FastViTHD): one square image to visual tokens" + (
        " in the language model's space." if options.projector else "."
    )
    values = asset.values_of(options, converter(), _source(model.config))
    values["fit"] = model.config.fit
    asset.write(program, path, what, values)
    del program
    say("comparing it in Apple's runtime with MLX")
    return verify.judge(asset.read(path), reference), lossy


def _write_embed(
    table: np.ndarray,
    path: Path,
    options: CoreAIOptions,
    config: ModelConfig,
    say: Notify,
) -> Verdict:
    say("writing the table of embeddings")
    values = asset.values_of(options, converter(), _source(config))
    values["compression"] = "none"
    what = "FastVLM's token embeddings: ids to rows of the table."
    asset.write(programs.embed_program(table), path, what, values)
    return verify.judge_embed(asset.read(path), table)


def _write_language(
    tensors: Tensors,
    table: np.ndarray,
    path: Path,
    options: CoreAIOptions,
    config: ModelConfig,
    say: Notify,
) -> Verdict:
    say("building the language model's program")
    assert config.text is not None  # checked by read_model
    weight = language_weights(tensors, config, len(table))
    values = asset.values_of(options, converter(), _source(config))
    values["compression"] = f"int{options.q_bits}-block" if options.q_bits else "none"
    values |= language.asset_values(options.context, options.q_bits)
    program = language.decoder_of(
        config.text, weight, options.context, options.precision, options.q_bits
    )
    what = "FastVLM's language model (Qwen2): embeddings to logits, with caches."
    asset.write(program, path, what, values)
    del program
    say("comparing it in Apple's runtime with MLX, token by token")
    return language.judge_language(asset.read(path), config.text, weight, table)


def language_weights(tensors: Tensors, config: ModelConfig, rows: int) -> Weight:
    """Gives the language model's weights in float32, its vocabulary of `rows`."""
    prefix = "language_model."
    own = {n: a for n, a in tensors.items() if n.startswith(prefix)}

    def weight(name: str) -> np.ndarray:
        layer = (prefix + name).rpartition(".")[0]
        fields = {n: a for n, a in own.items() if n.rpartition(".")[0] == layer}
        if layer in (EMBED_WEIGHT, "language_model.lm_head"):
            fields = llava_files.add_embedding_rows(fields, rows)
        found = dequantized(fields, config.quantization)[prefix + name]
        return np.array(found.astype(mx.float32))

    return weight


def _source(config: ModelConfig) -> str:
    return str(config.source.get("name", "unknown"))


def embedding_table(
    tensors: Tensors, config: ModelConfig, needed: int, precision: str
) -> np.ndarray:
    """The rows of all tokens, at least `needed`, (vocabulary, hidden)."""
    own = {n: a for n, a in tensors.items() if n.startswith(f"{EMBED_WEIGHT}.")}
    rows = dequantized(own, config.quantization)
    rows = llava_files.add_embedding_rows(rows, needed)[f"{EMBED_WEIGHT}.weight"]
    return np.array(rows.astype(mx.float32).astype(getattr(mx, precision)))
