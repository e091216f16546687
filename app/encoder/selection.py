"""`--encoder auto`: MLX or Core ML, whichever encodes faster on this machine.

The Neural Engine should win on base chips and the GPU on Max chips, so both are timed
with the model that will run: once per machine, package and resolution, where a package
exists. The result is kept in the cache folder, and `info` shows it.
"""

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.cache_dir import cache_dir

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM

# The GPU stays free for the language model.
COMPUTE_UNITS = "cpu-ne"
RUNS = 3


@dataclass(frozen=True)
class Choice:
    """Median milliseconds to encode one image with each encoder."""

    mlx: float
    coreml: float

    @property
    def encoder(self) -> str:
        return "coreml" if self.coreml < self.mlx else "mlx"


def use_faster(model: "FastVLM", package: Path) -> Choice | None:
    """Leaves `model` with the faster encoder; times both if that was never done.

    None, and MLX, for a package that does not hold the model's resolution.
    """
    from fastvlm_mlx import coreml_encoder

    resolution = model.config.image_size
    known = remembered(package, resolution)
    if known is not None and known.encoder == "mlx":
        return known
    mlx_ms = None if known else _median_ms(model)
    encoder = coreml_encoder.attach(model, package, COMPUTE_UNITS)
    if known is not None or mlx_ms is None:
        return known
    if resolution not in encoder.functions:
        coreml_encoder.detach(model)
        return None
    choice = Choice(mlx_ms, _median_ms(model))
    _remember(package, resolution, choice)
    if choice.encoder == "mlx":
        coreml_encoder.detach(model)
    return choice


def remembered(package: Path, resolution: int) -> Choice | None:
    """What was measured for this package on this machine; None if nothing was."""
    found = _read().get(_key(package, resolution))
    return Choice(**found) if found else None


def _median_ms(model: "FastVLM") -> float:
    import mlx.core as mx

    side = model.config.image_size
    pixels = mx.random.uniform(shape=(1, side, side, 3))
    times = []
    for _ in range(1 + RUNS):  # the first warms up
        start = time.perf_counter()
        mx.eval(model.encode_pixels(pixels))
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[1:]), 2)


def _key(package: Path, resolution: int) -> str:
    import mlx.core as mx

    device = mx.device_info(mx.default_device()).get("device_name", platform.machine())
    changed = max(
        (file.stat().st_mtime_ns for file in (package / "Data").rglob("*")), default=0
    )
    parts = (device, platform.mac_ver()[0], package.resolve(), changed, resolution)
    return " ".join(map(str, parts))


def _path() -> Path:
    return cache_dir() / "encoders.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_path().read_text())
    except (OSError, ValueError):  # none yet, or unreadable: measured anew
        return {}
    return found if isinstance(found, dict) else {}


def _remember(package: Path, resolution: int, choice: Choice) -> None:
    path = _path()
    all_choices = _read() | {_key(package, resolution): asdict(choice)}
    with staged_file(path, overwrite=True) as partial:
        partial.write_text(json.dumps(all_choices, indent=1) + "\n")
