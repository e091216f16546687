"""Keeps the bytecode of what the tests import, where Python was told to write none.

Containers set PYTHONDONTWRITEBYTECODE, and `uv` compiles no package that it installs.
Then each of the some hundred processes that the tests start compiles NumPy, Pillow and
the program anew, which is more than half of its start. The bytecode goes to pytest's
cache, so nothing is written beside a source.
"""

import os
import sys

import pytest


def keep(config: pytest.Config) -> None:
    """Lets this process and those that it starts write bytecode, and read it."""
    cache = getattr(config, "cache", None)  # none with `-p no:cacheprovider`
    if not sys.dont_write_bytecode or sys.pycache_prefix or cache is None:
        return
    try:
        folder = str(cache.mkdir("bytecode"))
    except OSError:  # a checkout that cannot be written
        return
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = folder
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
