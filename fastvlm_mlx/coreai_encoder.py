"""Imports Apple's Core AI package, which writes and runs `.aimodel` files.

The names of its interface changed from beta to beta, so one version is asked for.
"""

import platform
from importlib import metadata, util
from types import ModuleType

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.installation import pip_install

VERSION = "1.0.0b3"


def import_coreai() -> ModuleType:
    """The module `coreai.authoring`; `coreai.runtime` is imported with it.

    Raises:
        OptionError: coreai-core is missing, or of another version.
    """
    wanted = f"coreai-core=={VERSION}"
    if util.find_spec("coreai") is None:
        raise OptionError(
            f"Core AI needs {wanted}, for Linux on x86-64 and macOS 26 on Apple"
            f" silicon; {pip_install(wanted)}"
        )
    installed = metadata.version("coreai-core")
    if installed != VERSION:
        raise OptionError(
            f"Core AI needs {wanted}, and {installed} is installed;"
            f" {pip_install(wanted)}"
        )
    try:
        import coreai.authoring
        import coreai.runtime  # noqa: F401
    except ImportError as fault:
        raise OptionError(
            f"coreai-core {installed} does not load on {platform.platform()}"
            f" ({' '.join(str(fault).split())[:160]}); it needs glibc 2.34 or macOS 26"
        ) from fault
    return coreai.authoring
