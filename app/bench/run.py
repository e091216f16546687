"""`fastvlm-mlx bench`: how fast a model is on this machine, stage by stage.

What is measured is defined in `stages.py`, beside the timers. It is printed as a table
or, with `--json`, as one line of JSON that holds more: every single run, FLOPs and
bytes of every stage, predictions.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import charts, machine, terminal
from fastvlm_mlx.app.bench import plot, roofline
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.app.session import tuned_name
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.read_input import read_input
from fastvlm_mlx.files.user_path import expand_user

if TYPE_CHECKING:
    from fastvlm_mlx.model.config import ModelConfig

FORMAT = "fastvlm-mlx-bench 1"
ENCODERS = ("mlx", "coreml-all", "coreml-ane", "coreml-gpu", "coreml-cpu", "coreai")
COLD_RUNS = 3
_LARGEST = 64 << 20  # bytes of a report, with what stands above it


@dataclass(frozen=True)
class Request:
    """The command line of `bench`; empty `resolutions` mean the model's own."""

    model: str | None
    resolutions: Sequence[int]
    encoders: Sequence[str]
    tiles: str | None
    image: str | None
    prompt: str
    max_tokens: int
    runs: int
    warmup: int
    cold: bool
    as_json: bool
    plot: Path | None
    adapter: Path | None = None


def run(request: Request) -> None:
    """Measures, then prints a table or one line of JSON; draws a chart if asked."""
    from fastvlm_mlx.app.bench import table

    if request.plot is None:
        terminal.check_stdout()
    _check(request)
    report = gather(request)
    print(json.dumps(report) if request.as_json else table.table(report))
    if request.plot is not None:
        plot.draw(report, expand_user(request.plot))


def compare(before: Path, after: Path, *, as_json: bool) -> None:
    """Print how the second of two reports compares with the first."""
    from fastvlm_mlx.app.bench import table

    terminal.check_stdout()
    old, new = read(before), read(after)
    ratios = table.ratios(old, new)
    if not ratios:
        raise OptionError(f"{before} and {after} have no resolution in common")
    print(json.dumps(ratios) if as_json else table.comparison(old, new, ratios))


def read(path: Path) -> dict[str, Any]:
    """A report that `bench` printed: its last line, whatever stands above.

    Raises:
        OptionError: the file holds no such report.
    """
    try:
        data = read_input(expand_user(path), _LARGEST)
        lines = data.decode().strip().splitlines() if len(data) <= _LARGEST else []
        report = json.loads(lines[-1])
        if report["format"] == FORMAT:
            return report
    except OSError as fault:
        reason = (fault.strerror or str(fault)).lower()
        raise OptionError(f"{path}: {reason}; give two saved reports") from fault
    except (ValueError, LookupError, TypeError):
        pass
    raise OptionError(
        f"{path}: no report of `fastvlm-mlx bench`; save one with `--json > FILE`"
    )


def _check(request: Request) -> None:
    """Refuse what cannot work before a model is loaded."""
    from fastvlm_mlx.processing.image_options import check_resolution

    for name, value, least in (
        ("--runs", request.runs, 1),
        ("--warmup", request.warmup, 0),
        ("--max-tokens", request.max_tokens, 2),
    ):
        if value < least:
            raise OptionError(f"{name} {value}: use at least {least}")
    for resolution in request.resolutions:
        check_resolution(resolution)
    if request.plot is not None:
        charts.check(expand_user(request.plot))


def gather(request: Request) -> dict[str, Any]:
    """Everything `bench` reports; seconds, bytes and tokens as plain numbers."""
    import mlx.core as mx

    from fastvlm_mlx.app.bench import flops, stages
    from fastvlm_mlx.fastvlm import load
    from fastvlm_mlx.hub.locate import choose_default
    from fastvlm_mlx.processing.image_options import parse_tiles

    name = request.model or choose_default()[0]
    with terminal.progress("converting") as update:
        model = load(name, adapter=request.adapter, on_progress=update)
    mx.eval(model.parameters())
    dtype = stages.dtype_of(model)
    weights = flops.weight_itemsize(model.language_model) if model.language_model else 0
    tiles = parse_tiles(request.tiles) if request.tiles else None
    resolutions = sorted(set(request.resolutions)) or [model.config.image_size]
    rounded = stages.has_rounded_weights(model)
    speeds = [roofline.measure(dtype, rounded=rounded)]
    image, kind = _image(request.image)
    results, missing = [], {"energy": machine.energy()}
    cold_runs = COLD_RUNS if request.cold else 0
    rounds = (request.runs + request.warmup + cold_runs) * len(resolutions)
    with tempfile.TemporaryDirectory() as folder, _rounds(rounds) as step:
        files = stages.variants(image, Path(folder), kind)
        for encoder in request.encoders or ("mlx",):
            if reason := _unavailable(encoder):
                missing[f"encoder {encoder}"] = reason
                continue
            for resolution in resolutions:
                case = stages.Case(
                    resolution,
                    tiles,
                    request.prompt,
                    request.max_tokens,
                    request.runs,
                    request.warmup,
                )
                with packages.in_use(model, name, encoder):
                    found = stages.measure(model, case, files, step)
                if request.cold and encoder == "mlx":
                    _add_cold(found, name, request.adapter, case, next(files), step)
                    if "cold" in found:
                        missing[f"cold TTFT at {resolution} px"] = found.pop("cold")
                results.append({"encoder": encoder, "resolution": resolution, **found})
    speeds.append(roofline.measure(dtype, rounded=rounded))
    speed = roofline.Speed(
        "this machine", max(s.flops for s in speeds), max(s.bytes for s in speeds)
    )
    images = 1 + tiles[0] * tiles[1] if tiles else 1
    for result in results:
        _summarize(result)
        _add_limits(result, model.config, speed, dtype.size, weights, images)
    if not all(result["predictions"] for result in results):
        missing["predictions"] = (
            "the model is so small that a GPU would spend its time launching kernels,"
            " which they do not count"
        )
    return {
        "format": FORMAT,
        "model": tuned_name(str(name), request.adapter),
        "dtype": str(dtype).removeprefix("mlx.core."),
        "machine": machine.facts(),
        "speed": {"flops": speed.flops, "bytes": speed.bytes},
        "settings": {
            "runs": request.runs,
            "warmup": request.warmup,
            "max_tokens": request.max_tokens,
            "tiles": request.tiles,
            "image": [*image.size, kind],
            "prompt": request.prompt,
        },
        "results": results,
        "not_measured": missing,
    }


def _add_cold(
    found: dict[str, Any],
    model: str,
    adapter: Path | None,
    case: Any,
    file: Path,
    step: Callable[[], None],
) -> None:
    from fastvlm_mlx.app.bench import stages

    for _ in range(COLD_RUNS):
        result = stages.cold(model, case, file, adapter)
        step()
        if isinstance(result, str):
            found["cold"] = result
            return
        found["seconds"].setdefault("cold_ttft", []).append(result["cold_ttft"])
        found["peak_memory"] = max(
            found.get("peak_memory", 0), int(result["peak_memory"])
        )


def _summarize(result: dict[str, Any]) -> None:
    """Replace the lists of runs by median, p95 and the runs."""
    seconds = result["seconds"]
    for name, runs in seconds.items():
        seconds[name] = {
            "median": statistics.median(runs),
            "p95": p95(runs),
            "runs": runs,
        }
    step = seconds.get("decode_token")
    result["generation_tps"] = 1 / step["median"] if step else None


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, between two values if need be."""
    ordered = sorted(values)
    place = 0.95 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _add_limits(
    result: dict[str, Any],
    config: "ModelConfig",
    speed: roofline.Speed,
    itemsize: int,
    weights: float,
    images: int,
) -> None:
    """Add each stage's least time here, and predictions for Apple's chips."""
    resolution, tokens = result["resolution"], result["prompt_tokens"]
    work = roofline.stages(
        config,
        resolution,
        tokens,
        itemsize,
        cached=result["cached_tokens"],
        images=images,
        weight_itemsize=weights,
    )
    medians = {key: value["median"] for key, value in result["seconds"].items()}
    result["limits"] = roofline.limits(work, speed, medians)
    # An Apple GPU computes in 16 bit, whatever this machine does.
    on_apple = roofline.stages(config, resolution, tokens, 2, images=images)
    result["predictions"] = roofline.predictions(on_apple)


def _image(path: str | None) -> tuple[Any, str]:
    """The image to measure with, and the format its variants are saved in."""
    from fastvlm_mlx.app.bench import stages
    from fastvlm_mlx.processing.image_file import open_image

    if path is None:
        return stages.example(), "JPEG"
    opened = open_image(path)
    lossy = path.lower().endswith((".jpg", ".jpeg"))
    return opened.convert("RGB"), "JPEG" if lossy else "PNG"


def _unavailable(encoder: str) -> str | None:
    """Why an encoder backend cannot be measured here; None if it can."""
    if encoder not in ENCODERS:
        raise OptionError(f"--encoder {encoder}: unknown; use {', '.join(ENCODERS)}")
    if encoder == "mlx":
        return None
    return packages.unavailable(encoder)


@contextmanager
def _rounds(total: int) -> Iterator[Callable[[], None]]:
    """A bar of rounds on a terminal; yields the function that counts one."""
    done = 0
    with terminal.progress("measuring", count=True) as update:

        def step() -> None:
            nonlocal done
            done += 1
            update(done, total)

        yield step
