"""`fastvlm-mlx export coreai` and `verify` of what it wrote, by Apple's runtime."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.export.images import check_images
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.convert import llava_files, to_coreai
from fastvlm_mlx.convert.coreai import asset, verify
from fastvlm_mlx.convert.coreai.language import judge_language
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreai.probe import probe
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.outputs import COREAI_FOLDER, COREAI_METADATA
from fastvlm_mlx.coreai_runtime import import_coreai
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output
from fastvlm_mlx.weights.weight_files import reading


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
@reading()
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
    _, config, tensors = llava_files.read_model(model, "coreai")
    reference = Reference(
        llava_files.vision_model(tensors, config), [str(path) for path in images]
    )
    table = to_coreai.embedding_table(tensors, config, 0, "float32")
    weight = to_coreai.language_weights(tensors, config, 0)
    for each in stored:
        if each.path.name == to_coreai.EMBED:
            verdicts = [verify.judge_embed(each, table)]
        elif each.path.name == to_coreai.LANGUAGE:
            assert config.text is not None  # checked by read_model
            verdicts = [judge_language(each, config.text, weight, table)]
        else:
            verdicts = verify.judge(each, reference)
        for verdict in verdicts:
            print(verdict)
        consequence = f"it is not of {model}, or drifts from it"
        verify.require(verdicts, str(each.path), consequence)
