"""Loads Apple's Core AI package and runs an `.aimodel` in its runtime.

The names of its interface changed from beta to beta, so one version is asked for. The
runtime is asynchronous and prints to the standard error descriptor; here it is neither.
On Linux it interprets programs, which it compiles into the temporary folder first.
"""

import asyncio
import contextlib
import os
import platform
import sys
import threading
from collections.abc import Coroutine, Iterator
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

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


class CoreAIModel:
    """A loaded `.aimodel`; use it in a `with` block.

    All calls go to one thread with an event loop of its own, so that a caller may
    itself be in one.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Self:
        ops = import_coreai()
        self._loop = asyncio.new_event_loop()
        # A daemon, so that Ctrl-C need not wait for a call of minutes.
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._functions: dict[str, Any] = {}
        try:
            self._opened = ops.AIModelAsset.load(self.path).executable()
            self._model = self._wait(self._opened.__aenter__())
        except Exception:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *fault: Any) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return  # interrupted, perhaps in the middle of a call
        self._functions.clear()
        self._model = None
        with contextlib.suppress(OSError):  # its temporary folder
            self._wait(self._opened.__aexit__(None, None, None))
        self._close()

    @property
    def functions(self) -> list[str]:
        assert self._model is not None
        return sorted(self._model.function_names)

    def describe(self, function: str) -> Any:
        """The runtime's descriptor: names, shapes and types of inputs and outputs."""
        return self._function(function).desc

    def run(
        self,
        function: str,
        inputs: dict[str, np.ndarray],
        state: dict[str, Any] | None = None,
    ) -> dict[str, np.ndarray]:
        """The outputs of `function` by name, copied.

        Args:
            state: `NDArray`s of the runtime, which the call changes.
        """
        from coreai.runtime import NDArray

        called = self._function(function)
        given = {n: NDArray(np.ascontiguousarray(a)) for n, a in inputs.items()}
        found = self._wait(called(given, state or {}))
        return {name: np.array(array.numpy()) for name, array in found.items()}

    def _function(self, name: str) -> Any:
        if name not in self._functions:
            assert self._model is not None
            with quiet_stderr():
                self._functions[name] = self._model.load_function(name)
        return self._functions[name]

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what native code prints to descriptor 2 from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
