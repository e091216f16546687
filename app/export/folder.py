"""`fastvlm-mlx convert`: any checkpoint to a folder of ours, and how large it got."""

from pathlib import Path
from typing import Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.files import disk_space


def run(source: str, out: Path, *, encoder_from: str | None, **options: Any) -> None:
    """Convert with a progress bar, then say the sizes and, if quantized, the drift."""
    from fastvlm_mlx.convert import to_mlx
    from fastvlm_mlx.hub.locate import locate

    donor = None if encoder_from is None else locate(encoder_from)
    with terminal.progress("converting") as update:
        report = to_mlx.convert(
            locate(source),
            out,
            encoder_from=donor,
            on_progress=update,
            **options,
        )
    before = disk_space.format_size(report.source_bytes)
    after = disk_space.format_size(report.bytes)
    print(f"{report.out}: {report.layout} layout, weights {before} -> {after}")
    if report.agreement is not None:
        same, drift = report.agreement.top1, report.agreement.kl
        print(
            f"agreement with the unquantized model: {same:.1%} the same next token, "
            f"KL {drift:.4f} nats, at {report.agreement.positions} positions"
        )
