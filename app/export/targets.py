"""`convert --coreml`, `convert --target`, `verify`: what is written, how true it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.session import UsageError

if TYPE_CHECKING:
    from fastvlm_mlx.convert.coreml.options import CoreMLOptions
    from fastvlm_mlx.convert.coreml.verify import Verdict

FLAGS = {
    "resolutions": "--resolution",
    "compression": "--compress",
    "images": "--image",
}


def flag(name: str) -> str:
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def kind(
    coreml: bool,
    target: str | None,
    encoder: Mapping[str, Any],
    weights: Mapping[str, Any],
) -> str | None:
    """What to write: `coreml`, `ios`, `mlx-vlm`, or None for a folder of ours.

    Raises:
        UsageError: options that do not go together.
    """
    if coreml and target is not None:
        raise UsageError(f"--coreml --target {target}: use one of them")
    chosen = "coreml" if coreml else target
    given = [name for name, value in encoder.items() if value is not None]
    if given and chosen not in ("coreml", "ios"):
        raise UsageError(f"{flag(given[0])}: needs --coreml or --target ios")
    unused = {
        "coreml": tuple(weights),
        "ios": ("dtype", "encoder_from"),
        "mlx-vlm": ("encoder_from",),
    }.get(chosen or "", ())
    for name in unused:
        if weights[name] is not None:
            where = "--coreml" if coreml else f"--target {target}"
            raise UsageError(
                f"{flag(name)}: has no meaning with {where}; leave it out, or convert"
                " to a folder first"
            )
    return chosen


def run(
    kind: str,
    source: str,
    out: Path,
    encoder: Mapping[str, Any],
    weights: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write `out` and say its size and how well it agrees."""
    given = {name: value for name, value in encoder.items() if value is not None}
    images = [str(path) for path in given.pop("images", ())]
    if kind == "mlx-vlm":
        _write_mlx_vlm(source, out, weights, overwrite)
    elif kind == "ios":
        _write_ios(source, out, options(given), images, weights, overwrite)
    else:
        _write_package(source, out, options(given), images, overwrite)


def options(given: Mapping[str, Any]) -> "CoreMLOptions":
    """The export's options from the command line's.

    Raises:
        OptionError: a value that cannot be honoured.
    """
    from fastvlm_mlx.convert.coreml.options import CoreMLOptions

    values = dict(given)
    if "resolutions" in values:
        text = values["resolutions"]
        try:
            values["resolutions"] = tuple(int(size) for size in text.split(","))
        except ValueError:
            raise UsageError(
                f"--resolution {text}: use sizes such as 1024 or 512,1024"
            ) from None
    return CoreMLOptions(**values)


def _write_package(
    source: str,
    out: Path,
    options: "CoreMLOptions",
    images: Sequence[str],
    overwrite: bool,
) -> None:
    from fastvlm_mlx.convert import to_coreml
    from fastvlm_mlx.fastvlm import load
    from fastvlm_mlx.files.disk_space import format_size

    report = to_coreml.export(
        load(source, dtype="float32"),
        out,
        options,
        images=images,
        overwrite=overwrite,
        notify=terminal.note,
    )
    print(f"{report.out}: {format_size(report.bytes)}")
    _print_verdicts(report.verdicts, report.warnings)
    for verdict in report.on_device:
        print(verdict)


def _write_ios(
    source: str,
    out: Path,
    options: "CoreMLOptions",
    images: Sequence[str],
    weights: Mapping[str, Any],
    overwrite: bool,
) -> None:
    from fastvlm_mlx.convert import to_ios
    from fastvlm_mlx.files.disk_space import format_size

    given = {k: v for k, v in weights.items() if k.startswith("q_") and v is not None}
    report = to_ios.export(
        source, out, options, images=images, overwrite=overwrite, **given
    )
    print(f"{report.out}: {format_size(report.bytes)} on disk")
    print(f"memory on a phone: {report.memory}")
    _print_verdicts(report.verdicts, report.warnings)


def _write_mlx_vlm(
    source: str, out: Path, weights: Mapping[str, Any], overwrite: bool
) -> None:
    from fastvlm_mlx.convert import to_mlx_vlm
    from fastvlm_mlx.files.disk_space import format_size

    given = {name: value for name, value in weights.items() if value is not None}
    report = to_mlx_vlm.export(source, out, overwrite=overwrite, **given)
    print(f"{report.out}: {format_size(report.bytes)}")
    for line in report.warnings:
        terminal.note(f"warning: {line}")


def verify(
    package: Path,
    model: str,
    images: Sequence[Path],
    *,
    strict: bool,
    device: bool,
) -> None:
    """Print how `package` agrees with `model`; fail where it is too little.

    Raises:
        OptionError: with the figure, or `--device` elsewhere than on a Mac.
    """
    from fastvlm_mlx import coreml_encoder
    from fastvlm_mlx.convert.coreml import mlpackage, verify
    from fastvlm_mlx.fastvlm import load

    if device:
        coreml_encoder.require_macos()
    stored = mlpackage.read(package)
    loaded = load(model, dtype="float32")
    paths = [str(path) for path in images]
    reference = verify.Reference(loaded, paths)
    verdicts = verify.judge(stored, reference, strict=strict)
    _print_verdicts(verdicts, ())
    consequence = f"it does not hold the encoder of {model}, or drifts from it"
    verify.require(verdicts, str(package), consequence)
    if device:
        from fastvlm_mlx.convert.coreml.device import judge_on_device

        for verdict in judge_on_device(stored, reference):
            print(verdict)


def _print_verdicts(verdicts: Sequence["Verdict"], warnings: Sequence[str]) -> None:
    for verdict in verdicts:
        print(verdict)
    lines = [*warnings]
    for verdict in verdicts:
        where = f"{verdict.function}: " if len(verdicts) > 1 else ""
        lines += [where + line for line in verdict.warnings]
        lines += [where + str(finding) for finding in verdict.findings]
    for line in lines:
        terminal.note(f"note: {line}")
