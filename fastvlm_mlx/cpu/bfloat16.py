"""Chooses how a Linux CPU multiplies many rows with bfloat16 weights.

A processor with AVX512-BF16 multiplies bfloat16 numbers and adds float32 sums in one
instruction. The compiled kernels use it where they prove, once per machine, that its
results are right and that it is faster than float32; the verdict lies beside them. The
environment variable FASTVLM_BFLOAT16 overrides it: `native`, `off` (float32), or
`emulated`, which computes the same with float32 instructions, slowly, for tests.
"""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file

VARIABLE = "FASTVLM_BFLOAT16"
FORMS = ("off", "emulated", "native")  # in the order of the kernels' `Form`

_ROWS, _DIM = 128, 512  # of the product that is tried
_ROUNDS = 5
# Native and emulated sums differ by their rounding alone: of the standard deviation.
_LIMIT = 1e-4


def choose(kernels: ctypes.CDLL, verdict: Path) -> None:
    """Tells the compiled kernels the form of their bfloat16 products.

    Args:
        kernels: ready for use.
        verdict: a file that keeps what was found on this machine.
    Raises:
        OptionError: FASTVLM_BFLOAT16 is unknown, or asks for what the processor lacks.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", *FORMS):
        raise OptionError(f"{VARIABLE}={wanted}: unknown; use native, emulated or off")
    has_native = bool(kernels.fv_has_native_bfloat16())
    if wanted == "native" and not has_native:
        raise OptionError(
            f"{VARIABLE}=native: this processor has no AVX512-BF16; unset {VARIABLE}"
        )
    if not wanted:
        wanted = _found(kernels, verdict) if has_native else "off"
    use(kernels, wanted)


def use(kernels: ctypes.CDLL, form: str) -> None:
    """Makes the kernels compute in `form`, one of FORMS."""
    kernels.fv_use_bfloat16(ctypes.c_long(FORMS.index(form)))


def form(kernels: ctypes.CDLL) -> str:
    """The form in which the kernels compute."""
    return FORMS[kernels.fv_bfloat16_form()]


def _found(kernels: ctypes.CDLL, verdict: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if (known := verdict.read_text()) in ("native", "off"):
            return known
    found = "native" if pays(_trial(kernels)) else "off"
    with contextlib.suppress(OSError, OptionError):
        with staged_file(verdict, overwrite=True) as partial:
            partial.write_text(found)
    return found


def pays(product: Callable[[str], np.ndarray]) -> bool:
    """Whether the native form gives what the emulated one gives, faster than float32.

    Args:
        product: computes one product in a form.
    """
    expected = product("emulated")
    difference = np.abs(product("native") - expected).max()
    if not difference <= _LIMIT * expected.std():  # also where it is not a number
        return False
    seconds = {"native": float("inf"), "off": float("inf")}
    for form in [*seconds] * _ROUNDS:
        started = time.perf_counter()
        product(form)
        seconds[form] = min(seconds[form], time.perf_counter() - started)
    return seconds["native"] < seconds["off"]


def _trial(kernels: ctypes.CDLL) -> Callable[[str], np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((_ROWS, _DIM), np.float32)
    weight = random.standard_normal((_DIM, _DIM), np.float32).view(np.uint32) >> 16
    weight = weight.astype(np.uint16)
    out = np.empty((_ROWS, _DIM), np.float32)
    sizes = [ctypes.c_long(size) for size in (_ROWS, _DIM, _DIM, False)]

    def product(form: str) -> np.ndarray:
        use(kernels, form)
        arrays = (x, weight, x, out)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
        kernels.fv_linear_bfloat16(*pointers, *sizes)
        return out.copy()

    return product
