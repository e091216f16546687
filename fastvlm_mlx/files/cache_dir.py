"""Where conversions and downloads are kept on this machine."""

import os
from pathlib import Path

from fastvlm_mlx.files.user_path import expand_user

# The home of users that have none, on many systems: nothing can be made there.
_NO_HOME = Path("/nonexistent")


def cache_dir() -> Path:
    """Where conversions are kept: `FASTVLM_CACHE`, or ~/.cache/fastvlm-mlx."""
    chosen = os.environ.get("FASTVLM_CACHE") or "~/.cache/fastvlm-mlx"
    return _at_home(expand_user(chosen))


def _at_home(place: Path) -> Path:
    """`place`, absolute; a `~` left in it would be a folder called so."""
    if place.parts[:1] == ("~",):
        place = _NO_HOME.joinpath(*place.parts[1:])
    return place.absolute()


def is_homeless(place: Path) -> bool:
    """Whether `place` would be in the home folder of a user that has none.

    So it is in a container that runs as a number, without HOME.
    """
    return place.is_relative_to(_NO_HOME)


def is_in_cache(place: Path) -> bool:
    """Whether `place`, which need not exist, is in our cache or is the cache."""
    cache = cache_dir()
    return place.is_relative_to(cache) or place.is_relative_to(cache.resolve())


def way_out(place: Path, *, full: bool = False) -> str:
    """What the user can do about a `place` that cannot be written, or is `full`."""
    kind = "on another disk" if full else "that can be written"
    if is_in_cache(place):
        return f"set FASTVLM_CACHE to a folder {kind}"
    return f"name an output {kind}" if full else "name another output"


def hub_cache_dir() -> Path:
    """Where huggingface_hub keeps its downloads, by the variables it reads itself."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(home, "huggingface")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    chosen = chosen or os.path.join(home, "hub")
    return _at_home(Path(os.path.expandvars(os.path.expanduser(chosen))))
