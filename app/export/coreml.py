"""`fastvlm-mlx export coreml`: the vision encoder as a Core ML package."""

import re
from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.export.images import check_images
from fastvlm_mlx.app.export.report import print_verdicts
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.convert import to_coreml
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.outputs import PACKAGE
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import check_output


def package_path(out: Path) -> Path:
    """`out` with the suffix of a package, given or not.

    Raises:
        UsageError: another suffix.
    """
    if str(out) == "-" or out.name in ("", ".."):
        return out  # refused, as for any other command
    if re.match(r"\.\d", out.suffix):  # fastvithd-0.5b
        return out.with_name(out.name + to_coreml.SUFFIX)
    if out.suffix not in ("", to_coreml.SUFFIX):
        raise UsageError(
            f"{out}: a Core ML package is called NAME{to_coreml.SUFFIX};"
            f" use {out.with_suffix(to_coreml.SUFFIX).name}"
        )
    return out.with_suffix(to_coreml.SUFFIX)


def resolutions(text: str | None) -> tuple[int, ...]:
    """The sizes that `--resolution` names.

    Raises:
        UsageError: one is no number.
    """
    try:
        return tuple(int(side) for side in (text or "").split(",") if side)
    except ValueError:
        raise UsageError(
            f"--resolution {text}: use sizes such as 1024 or 512,1024"
        ) from None


def encoder_options(
    *,
    precision: str,
    resolution: str | None,
    compression: str | None,
    image_input: bool = False,
    projector: bool = False,
    attention: str,
    query_chunk: int | None,
    norm_prescale: int,
) -> CoreMLOptions:
    """The options of the command line, checked before anything is loaded.

    Raises:
        OptionError: a value that cannot be honoured.
    """
    return CoreMLOptions(
        precision=precision,
        resolutions=resolutions(resolution),
        image_input=image_input,
        projector=projector,
        compression=compression,
        attention=attention,
        query_chunk=query_chunk,
        norm_prescale=norm_prescale,
    )


@cpu_only()
def run(
    source: str,
    out: Path,
    options: CoreMLOptions,
    *,
    images: Sequence[Path],
    overwrite: bool,
) -> None:
    """Writes `out`; prints its size and its agreement with the MLX encoder.

    Raises:
        ImageError: one of `images` cannot be opened.
        OptionError: `out` exists, coremltools is missing, or the package drifts.
    """
    check_output(out, overwrite=overwrite, kind=PACKAGE)
    check_images(images)
    import_coremltools()
    report = to_coreml.export(
        load(source, dtype="float32"),
        out,
        options,
        images=[str(path) for path in images],
        overwrite=overwrite,
        notify=terminal.note,
    )
    print(f"{report.out}: {format_size(report.bytes)}")
    print_verdicts(report.verdicts, report.warnings)
    for verdict in report.on_device:
        print(verdict)
