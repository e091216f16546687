"""`--encoder auto|coreml|PATH`: images go through a Core ML package, on macOS."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.encoder import coreai
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.user_path import expand_user

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


def check(encoder: str, compute_units: str | None) -> bool:
    """Whether a package may be used; refuses before a model is loaded.

    Raises:
        OptionError: units without a package, no such package, or not a Mac.
    """
    if coreai.is_meant(encoder):
        coreai.check(encoder, compute_units)
        return True
    if encoder in ("auto", "mlx"):
        if compute_units is not None:
            raise OptionError(
                f"--compute-units {compute_units}: needs --encoder coreml or a package"
            )
        # Whether coremltools is there is asked once a package is found.
        return encoder == "auto" and sys.platform == "darwin"
    # Not the working folder, which an empty path is.
    named = bool(encoder) and expand_user(encoder).is_dir()
    if encoder != "coreml" and not named:
        raise OptionError(
            f"--encoder {encoder or repr('')}: use auto, mlx, coreml, coreai,"
            " an .mlpackage or an .aimodel"
        )
    from fastvlm_mlx import coreml_encoder

    coreml_encoder.require_macos()
    return True


def use(model: "FastVLM", name: str, encoder: str, compute_units: str | None) -> None:
    """Makes `model` encode with the package; `coreml` finds or makes its own."""
    from fastvlm_mlx import coreml_encoder

    if coreai.is_meant(encoder):
        coreai.use(model, name, encoder)
        return
    chosen = own_package(name) if encoder == "coreml" else expand_user(encoder)
    coreml_encoder.attach(model, chosen, compute_units or "all")


def use_faster(
    model: "FastVLM", name: str, resolution: int | None, *, once: bool = False
) -> None:
    """`auto`: the model's package where one exists and beats MLX at `resolution`.

    None is made for that. Only the model's own resolution is ever timed. With `once`
    the time to load the package counts: it encodes one image.
    """
    from fastvlm_mlx import coreml_encoder
    from fastvlm_mlx.app.encoder import selection

    package = existing_package(name)
    if package is None or model.vision_tower is None:
        return
    if resolution not in (None, model.config.image_size):
        return
    if selection.remembered(package, model.config.image_size) is None:
        terminal.note("timing the encoder with MLX and with Core ML, once")
    try:
        choice = selection.use_faster(model, package, once=once)
    # Nobody asked for this package: whatever Core ML says of it, MLX can encode.
    except Exception as fault:
        coreml_encoder.detach(model)
        reason = terminal.describe(fault)
        terminal.note(f"{package} cannot be used, so MLX encodes: {reason}")
        return
    if choice.problem and choice.is_new:
        terminal.note(f"{package} cannot be used, so MLX encodes: {choice.problem}")


def use_only(model: "FastVLM", name: str) -> None:
    """Attaches the package of a model that has no other encoder, on a Mac.

    Raises:
        OptionError: coremltools is missing, or Core ML refuses the package.
    """
    from fastvlm_mlx import coreml_encoder

    if model.vision_tower is not None or sys.platform != "darwin":
        return
    package = existing_package(name)
    if package is None:
        return
    try:
        coreml_encoder.attach(model, package)
    except FastVLMError:
        raise
    except Exception as fault:  # whatever Core ML raises
        raise OptionError(
            f"{package}: Core ML cannot use it ({terminal.describe(fault)}), and the"
            " model has no other encoder; convert it with --encoder-from"
        ) from fault


def existing_package(name: str) -> Path | None:
    """The package of a model by its name, which converts it if need be."""
    from fastvlm_mlx.model_folder import converted

    return package_of(converted(name))


def package_of(folder: Path) -> Path | None:
    """The package in a converted model's folder, or the one exported into the cache."""
    from fastvlm_mlx.files.json_file import read_json

    inside = read_json(folder / "config.json").get("coreml_encoder")
    if inside and (folder / inside).is_dir():
        return folder / inside
    out = _exported(folder)
    return out if out.exists() else None


def own_package(name: str) -> Path:
    """The model's existing package, or one exported once into the cache."""
    from fastvlm_mlx.convert import to_coreml
    from fastvlm_mlx.fastvlm import load
    from fastvlm_mlx.model_folder import converted

    found = existing_package(name)
    if found is not None:
        return found
    out = _exported(converted(name))
    terminal.note(f"exporting the encoder of {name}, once")
    to_coreml.export(load(name, dtype="float32"), out)
    return out


def _exported(folder: Path) -> Path:
    """Where the cache keeps the package of these very weights."""
    from fastvlm_mlx.files.cache_dir import cache_dir

    files = sorted(folder.resolve().glob("*.safetensors"))
    stamp = "".join(f"{file}{file.stat().st_mtime_ns}" for file in files)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    return cache_dir() / "coreml" / f"{folder.name}-{digest}.mlpackage"


# What `bench --encoder` calls the compute units.
BENCH_UNITS = {
    "coreml-all": "all",
    "coreml-ane": "cpu-ne",
    "coreml-gpu": "cpu-gpu",
    "coreml-cpu": "cpu",
}


def unavailable(encoder: str) -> str | None:
    """Why Core ML, or Core AI, cannot be measured here; None if it can."""
    if encoder == coreai.NAME:
        try:
            coreai.check(encoder, None)
        except OptionError as fault:
            return str(fault)
        return None
    if sys.platform != "darwin":
        return "needs macOS and an exported Core ML package"
    from fastvlm_mlx import coreml_encoder

    try:
        coreml_encoder.import_coremltools()
    except OptionError as fault:
        return str(fault)
    return None


@contextmanager
def in_use(model: "FastVLM", name: str, encoder: str) -> Iterator[None]:
    """`model` encodes as `bench --encoder` asks, and as before afterwards."""
    if encoder != coreai.NAME and encoder not in BENCH_UNITS:
        yield
        return
    from fastvlm_mlx import coreml_encoder

    if encoder == coreai.NAME:
        coreai.use(model, name, encoder)
    else:
        coreml_encoder.attach(model, own_package(name), BENCH_UNITS[encoder])
    try:
        yield
    finally:
        coreml_encoder.detach(model)
