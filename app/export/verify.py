"""`fastvlm-mlx verify`: a stored Core ML or Core AI model beside the MLX encoder."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx import coreml_encoder
from fastvlm_mlx.app.export import coreai
from fastvlm_mlx.app.export.images import check_images
from fastvlm_mlx.app.export.report import print_verdicts
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.convert.coreml import device as on_device
from fastvlm_mlx.convert.coreml import mlpackage, verify
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.fastvlm import load


@cpu_only()  # an M5's GPU multiplies float32 with 10 bits of mantissa
def run(
    package: Path, model: str, images: Sequence[Path], *, strict: bool, device: bool
) -> None:
    """Prints how well `package` agrees with `model`.

    Raises:
        OptionError: it agrees too little, or `device` elsewhere than on a Mac.
    """
    assets = coreai.assets_of(package)
    if assets is not None:
        if strict or device:
            option = "--strict" if strict else "--device"
            raise UsageError(
                f"{option}: is for an .mlpackage; leave it out for {package.name},"
                " which Apple's own runtime runs"
            )
        coreai.check(assets, model, images)
        return
    if device:
        coreml_encoder.require_macos()
    stored = mlpackage.read(package)
    check_images(images)
    reference = Reference(load(model, dtype="float32"), [str(path) for path in images])
    verdicts = verify.judge(stored, reference, strict=strict)
    print_verdicts(verdicts)
    consequence = f"it does not hold the encoder of {model}, or drifts from it"
    verify.require(verdicts, str(package), consequence)
    if device:
        verdicts_there = on_device.judge_on_device(stored, reference)
        for verdict in verdicts_there:
            print(verdict)
        on_device.require_on_device(stored, verdicts_there)
