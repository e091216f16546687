"""Where conversions and downloads are kept on this machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where conversions are kept: `FASTVLM_CACHE`, or ~/.cache/fastvlm-mlx."""
    chosen = os.environ.get("FASTVLM_CACHE") or "~/.cache/fastvlm-mlx"
    return Path(chosen).expanduser().absolute()


def hub_cache_dir() -> Path:
    """Where huggingface_hub keeps its downloads, by the variables it reads itself."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(home, "huggingface")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    chosen = chosen or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(chosen))).absolute()
