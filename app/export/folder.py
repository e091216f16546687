"""`fastvlm-mlx convert`: a checkpoint of any layout to a folder of ours."""

from pathlib import Path

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.convert.outputs import MODEL_FOLDER
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output
from fastvlm_mlx.hub.locate import locate


def refuse_targets(coreml: bool, target: str | None) -> None:
    """Names the command that took the place of two options of `convert`.

    Raises:
        UsageError: one of them was given.
    """
    if coreml:
        raise UsageError("--coreml: is `fastvlm-mlx export coreml SRC OUT` now")
    if target is not None:
        raise UsageError(f"--target: is `fastvlm-mlx export {target} SRC OUT` now")


def run(
    source: str,
    out: Path,
    *,
    q_bits: int | None,
    q_group_size: int | None,
    dtype: str | None,
    encoder_from: str | None,
    overwrite: bool,
    refresh: bool = False,
    adapter: Path | None = None,
) -> None:
    """Converts with a progress bar; prints the sizes and, if quantized, the drift.

    Raises:
        AdapterError: the adapter is damaged, or cannot be merged into this model.
        CheckpointError: the checkpoint is unknown, damaged or incomplete.
        OptionError: an option cannot be honoured, or `out` cannot be written.
    """
    check_output(out, overwrite=overwrite, kind=MODEL_FOLDER, source=source)
    to_mlx.check_options(dtype, q_bits, q_group_size)
    tuning = None if adapter is None else read_adapter(adapter)
    donor = None if encoder_from is None else locate(encoder_from)
    with terminal.progress("converting") as update:
        report = to_mlx.convert(
            locate(source, refresh=refresh),
            out,
            q_bits=q_bits,
            q_group_size=q_group_size,
            dtype=dtype,
            encoder_from=donor,
            adapter=tuning,
            overwrite=overwrite,
            on_progress=update,
        )
    before, after = format_size(report.source_bytes), format_size(report.bytes)
    print(f"{report.out}: {report.layout} layout, weights {before} -> {after}")
    if report.agreement is not None:
        same, drift = report.agreement.top1, report.agreement.kl
        print(
            f"agreement with the unquantized model: {same:.1%} the same next token, "
            f"KL {drift:.4f} nats, at {report.agreement.positions} positions"
        )
