"""`--encoder coreai` and `--encoder PATH.aimodel`: Core AI encodes, on macOS 27.

An asset is loaded first in a process of its own, which Core AI may end. Nothing of it
ran on a Mac; the tests pretend one, and run the asset in the runtime for Linux.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.user_path import expand_user

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM

NAME, SUFFIX = "coreai", ".aimodel"


def is_meant(encoder: str) -> bool:
    """Whether `--encoder` names Core AI or one of its files."""
    return encoder == NAME or encoder.endswith(SUFFIX)


def check(encoder: str, compute_units: str | None) -> None:
    """Refuses what cannot work before a model is loaded.

    Raises:
        OptionError: units of Core ML, no such asset, not macOS 27, or no coreai-core.
    """
    from fastvlm_mlx import coreai_encoder, coreai_runtime

    if compute_units is not None:
        raise OptionError(
            f"--compute-units {compute_units}: is for Core ML; leave it out with"
            f" --encoder {encoder}"
        )
    if encoder != NAME and not expand_user(encoder).is_dir():
        raise OptionError(f"--encoder {encoder}: no such {SUFFIX}; check the path")
    coreai_encoder.require_macos()
    coreai_runtime.import_coreai()


def use(model: "FastVLM", name: str, encoder: str) -> None:
    """Makes `model` encode with the asset; `coreai` finds or makes its own.

    Raises:
        CheckpointError: Core AI cannot load it.
        OptionError: it does not fit the model's projector.
    """
    from fastvlm_mlx.convert.coreai import asset, probe
    from fastvlm_mlx.coreai_encoder import CoreAIEncoder
    from fastvlm_mlx.coreml_encoder import replace_encoder

    path = own_asset(name) if encoder == NAME else expand_user(encoder)
    probe.probe(asset.read(path))
    replace_encoder(model, CoreAIEncoder(path), path)


def own_asset(name: str) -> Path:
    """The asset of the model's encoder, exported once into the cache."""
    from fastvlm_mlx.convert import to_coreai
    from fastvlm_mlx.fastvlm import load
    from fastvlm_mlx.files.cache_dir import cache_dir
    from fastvlm_mlx.model_folder import converted

    folder = converted(name)
    files = sorted(folder.resolve().glob("*.safetensors"))
    stamp = "".join(f"{file}{file.stat().st_mtime_ns}" for file in files)
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    out = cache_dir() / NAME / f"{folder.name}-{digest}{SUFFIX}"
    if not out.exists():
        terminal.note(f"exporting the encoder of {name}, once")
        to_coreai.export_encoder(load(name, dtype="float32"), out)
    return out
