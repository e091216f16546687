"""`--encoder auto`: MLX or Core ML, whichever encodes faster on this machine.

The Neural Engine should win on base chips and the GPU on Max chips, so both are timed
with the model that will run: once per machine, package and resolution, where a package
exists. Core ML is timed in a process of its own, which it may end or let wait. The
result is kept in the cache folder (`encoders.json`), and `info` shows it.
"""

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.cache_dir import cache_dir

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM

# The GPU stays free for the language model.
COMPUTE_UNITS = "cpu-ne"
RUNS = 3


@dataclass(frozen=True)
class Choice:
    """What encoding one image takes with each encoder, in milliseconds.

    Attributes:
        mlx, coreml: the medians; None where it was not measured.
        load: of loading the package, in every process, with the first image.
        problem: why the package cannot be used; empty if it can.
        is_new: whether this process measured it.
    """

    mlx: float | None
    coreml: float | None
    load: float = 0.0
    problem: str = ""
    is_new: bool = field(default=False, compare=False)

    @property
    def encoder(self) -> str:
        """The faster one for many images: `mlx` or `coreml`."""
        return self.faster(once=False)

    def faster(self, *, once: bool) -> str:
        """`mlx` or `coreml`; with `once` for a single image in a process."""
        if self.problem or self.mlx is None or self.coreml is None:
            return "mlx"
        coreml = max(self.load, self.coreml) if once else self.coreml
        return "coreml" if coreml < self.mlx else "mlx"


# Written before Core ML is tried; found only if that ended the process, or goes on.
_TRYING = Choice(None, None, problem="timing it did not end; see encoders.json")


def use_faster(model: "FastVLM", package: Path, *, once: bool = False) -> Choice:
    """Leaves `model` with the faster encoder; times both if that was never done."""
    from fastvlm_mlx import coreml_encoder

    resolution = model.config.image_size
    choice = remembered(package, resolution)
    if choice is None:
        _remember(package, resolution, _TRYING)
        choice = _measure(model, package)
        _remember(package, resolution, choice)
    if choice.faster(once=once) == "coreml":
        coreml_encoder.attach(model, package, COMPUTE_UNITS)
    return choice


def _measure(model: "FastVLM", package: Path) -> Choice:
    from fastvlm_mlx.coreml_probe import probe

    mlx_ms = _median_ms(model)
    side = model.config.image_size
    pixels = np.random.default_rng(0).random((1, side, side, 3), np.float32)
    try:
        found = probe(package, COMPUTE_UNITS, pixels, runs=RUNS)
    except OptionError as fault:
        return Choice(mlx_ms, None, problem=str(fault), is_new=True)
    load_ms = round(1e3 * found.load_seconds, 2)
    return Choice(mlx_ms, round(found.median_ms, 2), load_ms, is_new=True)


def remembered(package: Path, resolution: int) -> Choice | None:
    """What was measured for this package on this machine; None if nothing was."""
    found = _read().get(_key(package, resolution))
    try:
        return Choice(**found) if found else None
    except TypeError:  # of another version
        return None


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

    from fastvlm_mlx import device

    name = mx.device_info(device.default()).get("device_name", platform.machine())
    changed = max(
        (file.stat().st_mtime_ns for file in (package / "Data").rglob("*")), default=0
    )
    parts = (name, platform.mac_ver()[0], package.resolve(), changed, resolution)
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
    record = {key: v for key, v in asdict(choice).items() if key != "is_new"}
    all_choices = _read() | {_key(package, resolution): record}
    with staged_file(path, overwrite=True) as partial:
        partial.write_text(json.dumps(all_choices, indent=1) + "\n")
