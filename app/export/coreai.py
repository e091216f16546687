"""`fastvlm-mlx export coreai` and `verify` of what it wrote, by Apple's runtime."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.export.images import check_images
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.convert import to_coreai
from fastvlm_mlx.convert.coreai import asset, verify
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreai.probe import probe
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.outputs import COREAI_FOLDER, COREAI_METADATA
from fastvlm_mlx.coreai_encoder import import_coreai
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output


def folder_path(out: Path) -> Path:
    """`out`, which is a folder.

    Raises:
        UsageError: it is named as one of the assets that will lie in it.
    """
    if out.suffix in (asset.SUFFIX, ".mlpackage"):
        raise UsageError(
            f"{out}: export coreai writes a folder of several {asset.SUFFIX};"
            f" use {out.with_suffix('')}"
        )
    return out


def run(
    source: str,
    out: Path,
    options: CoreAIOptions,
    *,
    images: Sequence[Path],
    overwrite: bool,
    adapter: Path | None = None,
) -> None:
    """Writes `out`; prints its size and how well Core AI agrees with MLX.

    Raises:
        AdapterError: the adapter is damaged, or cannot be merged into this model.
        CheckpointError: Apple's runner cannot run such a model.
        OptionError: an option cannot be honoured, or an asset drifts.
    """
    tuning = None if adapter is None else read_adapter(adapter)
    check_output(out, overwrite=overwrite, kind=COREAI_FOLDER, source=source)
    check_images(images)
    report = to_coreai.export(
        source,
        out,
        options,
        images=[str(path) for path in images],
        adapter=tuning,
        overwrite=overwrite,
        notify=terminal.note,
    )
    print(f"{report.out}: {format_size(report.bytes)}")
    for verdict in report.verdicts:
        print(verdict)
    for line in report.warnings:
        terminal.note(f"note: {line}")


def assets_of(path: Path) -> list[Path] | None:
    """The assets that `path` names: itself, or those of a Core AI folder; None if it
    is neither."""
    if path.suffix == asset.SUFFIX:
        return [path]
    if (path / COREAI_METADATA).is_file():
        return sorted(path.glob(f"*{asset.SUFFIX}"))
    return None


@cpu_only()
def check(paths: list[Path], model: str, images: Sequence[Path]) -> None:
    """Prints how well the assets at `paths` agree with `model`.

    Raises:
        CheckpointError: one is damaged, or of another model.
        OptionError: one agrees too little.
    """
    import_coreai()
    stored = [asset.read(path) for path in paths]
    for each in stored:
        probe(each)
    check_images(images)
    loaded = load(model, dtype="float32")
    reference = None
    for each in stored:
        if each.path.name == to_coreai.EMBED:
            verdicts = [verify.judge_embed(each, _table(each, loaded))]
        else:
            reference = reference or Reference(loaded, [str(path) for path in images])
            verdicts = verify.judge(each, reference)
        for verdict in verdicts:
            print(verdict)
        consequence = f"it is not of {model}, or drifts from it"
        verify.require(verdicts, str(each.path), consequence)


def _table(stored: asset.Asset, model: FastVLM) -> np.ndarray:
    if model.config.text is None:
        raise CheckpointError(
            f"{stored.path}: the model has no language model to compare it with"
        )
    rows = model.embed_tokens(mx.arange(model.config.text.vocab_size))
    return np.array(rows.astype(mx.float32))
