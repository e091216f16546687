"""Float32 depthwise convolutions keep their bits: sums are added in the same order.

GCC chooses the order, another one for each processor. So the bits are known for one
compiler and processor, of the code before it was made faster.
"""

import hashlib
import re
import subprocess
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.cpu import kernels
from tests.cpu.test_kernels import LIMIT
from tests.support.assert_close import assert_close

KNOWN = ("12.2.0", "znver3")  # GCC, and the processor that it tunes for
BITS = {  # sha256, of a kernel size and a stride
    (3, 1): "4a3b43c9bc24b08b99d994875b2e99aacde16866bc145156dcd76ecaf7517da6",
    (3, 2): "a2b01b526c9a6a1e36e26a6c5c01ab07ff7604da33eeb884f6930709f7f7ca99",
    (7, 1): "f903ffe4bbedf6881a00afbb88d2a894132671c78e5ce4daf26e7fe98e5bbb5a",
    (7, 2): "34eb8bbf6bc08bd699fd157ec122c739649b588602570cb72d149f564cb4b705",
}


def compiler() -> tuple[str, ...]:
    def output(*options: str) -> str:
        return subprocess.check_output(["g++", *options], text=True)

    target = output("-march=native", "-Q", "--help=target")
    tuned = re.search(r"-mtune=\s+(\S+)", target)
    return output("-dumpfullversion").strip(), tuned.group(1) if tuned else ""


@pytest.mark.parametrize(("kernel", "stride"), list(BITS))
def test_bits_are_those_of_the_first_version(kernel: int, stride: int) -> None:
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    random = np.random.default_rng(kernel + stride)

    def numbers(*shape: int) -> Any:
        return mx.array(random.standard_normal(shape, dtype=np.float32))

    x, weight = numbers(1, 20, 24, 48), numbers(48, kernel, kernel, 1)
    bias = numbers(48)
    got = kernels.depthwise(x, weight, bias, stride=stride, activate=False)
    plain = mx.conv2d(x, weight, stride, kernel // 2, groups=48) + bias
    assert_close(f"{kernel}x{kernel}, stride {stride}", got, plain, LIMIT)
    if compiler() == KNOWN:
        bits = hashlib.sha256(np.asarray(got).tobytes()).hexdigest()
        assert bits == BITS[kernel, stride]
