"""Runs an exported encoder package with Core ML, on macOS only.

The encoder can then run on the Neural Engine while the language model has the GPU.
Only coremltools' documented API is called (`CompiledMLModel`, `compile_model`):
https://apple.github.io/coremltools/docs-guides/source/model-prediction.html
"""

import hashlib
import importlib.util
import logging
import platform
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.installation import pip_install
from fastvlm_mlx.model.vlm import Encoder, FastVLMModel
from fastvlm_mlx.processing.image_processor import unit_floats

# The names of `--compute-units`, and coremltools' `ComputeUnit`.
COMPUTE_UNITS = {
    "all": "ALL",
    "cpu-ne": "CPU_AND_NE",
    "cpu-gpu": "CPU_AND_GPU",
    "cpu": "CPU_ONLY",
}


def import_coremltools() -> ModuleType:
    """Imports coremltools without its log lines and without transformers.

    coremltools imports transformers if it can, which takes seconds and is not needed.

    Raises:
        OptionError: coremltools is not installed, or without its native part.
    """
    coremltools = sys.modules.get("coremltools") or _import_quietly()
    # pip builds it from source, without, where there is no wheel (issue 2695).
    if importlib.util.find_spec("coremltools.libmilstoragepython") is None:
        python = ".".join(platform.python_version_tuple()[:2])
        raise OptionError(
            f"coremltools {coremltools.__version__} has no native part for Python"
            f" {python} on {platform.machine()}; use Python 3.11 to 3.13"
        )
    return coremltools


def _import_quietly() -> ModuleType:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    hidden = [n for n in ("transformers", "torch") if n not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import coremltools
    except ImportError as fault:
        raise OptionError(
            "Core ML packages need coremltools, for Python 3.11 to 3.13;"
            f" {pip_install('coremltools>=9')}"
        ) from fault
    finally:
        for name in hidden:
            del sys.modules[name]
    return coremltools


def require_macos() -> None:
    """Checks that Core ML is there to run a package.

    Raises:
        OptionError: the system is not macOS.
    """
    if sys.platform != "darwin":
        raise OptionError(
            f"Core ML runs on macOS only, not on {platform.system()};"
            " use --encoder mlx here"
        )


class CoreMLEncoder:
    """A Core ML package as `FastVLMModel.encoder`, compiled once into the cache.

    A package of several resolutions loads the function of each when first used.

    Raises:
        OptionError: not on macOS, coremltools is missing, or unknown compute units.
    """

    def __init__(
        self,
        package: Path | str,
        compute_units: str = "all",
        *,
        compiled_model: Path | None = None,
    ):
        if compute_units not in COMPUTE_UNITS:
            raise OptionError(
                f"--compute-units {compute_units}: unknown;"
                f" use {', '.join(COMPUTE_UNITS)}"
            )
        require_macos()
        self.tools = import_coremltools()
        self.units = getattr(self.tools.ComputeUnit, COMPUTE_UNITS[compute_units])
        self.path = Path(package)
        spec = self.tools.utils.load_spec(str(package))
        described = spec.description.functions or [spec.description]
        # One function needs no name: Core ML calls it "main".
        self.functions = {
            _side(each.input[0]): getattr(each, "name", "") or None
            for each in described
        }
        self.output = described[0].output[0].name
        self.image_input = described[0].input[0].type.HasField("imageType")
        self.projected = self.output == "image_embeddings"
        self.compiled = compiled_model or compiled(self.path)
        self._loaded: dict[int, Any] = {}

    def __call__(self, pixels: Any) -> mx.array:
        """Encodes images one by one.

        Shapes:
            pixels: (N, R, R, 3), uint8 or floats in 0..1; returns (N, tokens, width)
        Raises:
            OptionError: the package has no function for the resolution R.
        """
        arrays = np.asarray(pixels)
        model = self._model(arrays.shape[1])
        out = [model.predict(self._inputs(each))[self.output] for each in arrays]
        return mx.array(np.concatenate(out))

    def _model(self, resolution: int) -> Any:
        if resolution not in self.functions:
            sizes = ", ".join(map(str, sorted(self.functions)))
            raise OptionError(
                f"--resolution {resolution}: {self.path.name} holds {sizes};"
                " use one of these or export it with this one"
            )
        if resolution not in self._loaded:
            self._loaded[resolution] = self.tools.models.CompiledMLModel(
                str(self.compiled), self.units, self.functions[resolution]
            )
        return self._loaded[resolution]

    def _inputs(self, pixels: np.ndarray) -> dict[str, Any]:
        if self.image_input:
            from PIL import Image

            if pixels.dtype != np.uint8:
                pixels = np.rint(pixels * 255).astype(np.uint8)
            return {"images": Image.fromarray(pixels)}
        floats = unit_floats(pixels).transpose(2, 0, 1)[None]
        return {"images": np.ascontiguousarray(floats)}


def _side(feature: Any) -> int:
    if feature.type.HasField("imageType"):
        return feature.type.imageType.width
    return feature.type.multiArrayType.shape[-1]


def attach(
    model: FastVLMModel, package: Path | str, compute_units: str = "all"
) -> CoreMLEncoder:
    """Makes `model` encode images with `package` instead of its MLX encoder.

    Raises:
        OptionError: not on macOS, or unknown units; or the package has a projector
            and the model's adapter another.
        CheckpointError: the model has no projector and the package neither.
    """
    encoder = CoreMLEncoder(package, compute_units)
    replace_encoder(model, encoder, package)
    return encoder


def replace_encoder(model: FastVLMModel, encoder: Encoder, package: Path | str) -> None:
    """Makes `model` encode images with `encoder`, which was made from `package`.

    Raises:
        OptionError: the package has a projector and the model's adapter another.
        CheckpointError: the model has no projector and the package neither.
    """
    if model.projector is None and not encoder.projected:
        raise CheckpointError(
            f"{package}: gives features, and this model has no projector;"
            " export the package with --projector"
        )
    if encoder.projected and model.projector_is_tuned:
        raise OptionError(
            f"{package}: has the model's own projector in it, and the adapter another;"
            " export a package without --projector"
        )
    model.encoder = encoder


def detach(model: FastVLMModel) -> None:
    """Makes `model` encode images with its MLX encoder again."""
    model.encoder = None


def compiled(package: Path) -> Path:
    """The path of `package` compiled (`.mlmodelc`), which is done once per cache."""
    require_macos()
    tools = import_coremltools()
    stamp = hashlib.sha256(platform.mac_ver()[0].encode())
    # coremltools rewrites Manifest.json whenever it opens a package.
    for file in sorted(f for f in (package / "Data").rglob("*") if f.is_file()):
        status = file.stat()
        stamp.update(f"{file}{status.st_size}{status.st_mtime_ns}".encode())
    folder = cache_dir() / "coreml" / stamp.hexdigest()[:16]
    out = folder / f"{package.stem}.mlmodelc"
    if not out.exists():
        with staged_folder(folder, overwrite=True, first_wins=True) as partial:
            compiled_model = str(partial / out.name)
            tools.models.utils.compile_model(str(package), compiled_model)
    return out
