"""`fastvlm-mlx export mlx-vlm`: the folder that mlx-vlm and mlx-swift-lm read."""

from pathlib import Path

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app import terminal
from fastvlm_mlx.convert import to_mlx_vlm
from fastvlm_mlx.convert.outputs import MODEL_FOLDER
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output


def run(
    source: str,
    out: Path,
    *,
    dtype: str,
    q_bits: int | None,
    q_group_size: int,
    overwrite: bool,
    adapter: Path | None = None,
) -> None:
    """Writes `out` and prints its size.

    Raises:
        AdapterError: the adapter is damaged, or cannot be merged into this model.
        CheckpointError: the encoder is not of the form that mlx-vlm knows.
        OptionError: an option cannot be honoured.
    """
    tuning = None if adapter is None else read_adapter(adapter)
    check_output(out, overwrite=overwrite, kind=MODEL_FOLDER, source=source)
    report = to_mlx_vlm.export(
        source,
        out,
        dtype=dtype,
        q_bits=q_bits,
        q_group_size=q_group_size,
        adapter=tuning,
        overwrite=overwrite,
    )
    print(f"{report.out}: {format_size(report.bytes)}")
    for line in report.warnings:
        terminal.note(f"warning: {line}")
