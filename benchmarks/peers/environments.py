"""A virtual environment of its own for each peer, made once in the cache folder."""

import subprocess
import sys
import venv
from pathlib import Path

from fastvlm_mlx.app.terminal import note

LINUX = sys.platform == "linux"
REQUIREMENTS = {
    "mlx-vlm": ("mlx-vlm", *(("mlx[cpu]", "scipy-openblas32") if LINUX else ())),
    "transformers": ("torch", "torchvision", "timm", "transformers", "pillow"),
}


def pin(requirement: str) -> None:
    """Installs this version of a package in the environments that need it."""
    package = requirement.partition("==")[0]
    for name, needed in REQUIREMENTS.items():
        REQUIREMENTS[name] = tuple(requirement if n == package else n for n in needed)


def make_environment(name: str, folder: Path) -> str:
    """The Python of an environment in `folder` with the peer's latest release.

    It is made once.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    home = folder / name
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        note(f"installing {' '.join(REQUIREMENTS[name])} for {name} in {home}")
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]],
            check=True,
            capture_output=True,
            text=True,
        )
        done.touch()
    return str(python)
