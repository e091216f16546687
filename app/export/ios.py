"""`fastvlm-mlx export ios`: the model folder of Apple's FastVLM app."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app.export.images import check_images
from fastvlm_mlx.app.export.report import print_verdicts
from fastvlm_mlx.convert import to_ios
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.outputs import MODEL_FOLDER
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output


def run(
    source: str,
    out: Path,
    options: CoreMLOptions,
    *,
    q_bits: int | None,
    q_group_size: int,
    images: Sequence[Path],
    overwrite: bool,
    adapter: Path | None = None,
) -> None:
    """Writes `out`; prints its size, the memory it needs and how well it agrees.

    Raises:
        AdapterError: the adapter is damaged, or cannot be merged into this model.
        CheckpointError: the app cannot run such a model.
        OptionError: an option cannot be honoured, or the package drifts.
    """
    tuning = None if adapter is None else read_adapter(adapter)
    check_output(out, overwrite=overwrite, kind=MODEL_FOLDER, source=source)
    check_images(images)
    report = to_ios.export(
        source,
        out,
        options,
        q_bits=q_bits,
        q_group_size=q_group_size,
        images=[str(path) for path in images],
        adapter=tuning,
        overwrite=overwrite,
    )
    print(f"{report.out}: {format_size(report.bytes)} on disk")
    print(f"memory on a phone: {report.memory}")
    print_verdicts(report.verdicts, report.warnings)
