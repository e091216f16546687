"""The command that installs an extra of this package into the Python in use."""

import re
import shlex
import shutil
import sys
from importlib import util


def install_command(extra: str) -> str:
    """The command that installs what an extra such as `serve` needs.

    It names the packages themselves, so it works for an installation from a clone, from
    a Git address or from a wheel.
    """
    return pip_install(*_packages(extra))


def pip_install(*requirements: str) -> str:
    """The command that installs these packages into the Python in use.

    It names that Python, unless the `pip` on the PATH is its own.
    """
    packages = shlex.join(requirements)
    if util.find_spec("pip") is None:  # as in the environments that uv makes
        return f"uv pip install --python {shlex.quote(sys.executable)} {packages}"
    if shutil.which("python") == sys.executable:
        return f"pip install {packages}"
    return f"{shlex.quote(sys.executable)} -m pip install {packages}"


def _packages(extra: str) -> list[str]:
    """The requirements of an extra; its usual name if this is no installation."""
    from importlib import metadata  # which every command would import, for an error

    try:
        requirements = metadata.requires("fastvlm-mlx") or []
    except metadata.PackageNotFoundError:
        requirements = []
    marked = re.compile(rf"\s*;.*\bextra == ['\"]{re.escape(extra)}['\"]")
    found = [line[: m.start()] for line in requirements if (m := marked.search(line))]
    return found or [f"fastvlm-mlx[{extra}]"]
