"""The form of bfloat16 products: tried once a machine, or forced by a variable."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastvlm_mlx.cpu import bfloat16, kernels
from fastvlm_mlx.errors import OptionError
from tests.support.assert_close import assert_close
from tests.support.paths import EXAMPLES

pytest_plugins = ["tests.support.bfloat16_forms"]


class Kernels(SimpleNamespace):
    """Stands for the compiled ones of a processor with the instruction, or without."""

    def __init__(self, native: bool):
        self.form = -1
        self.fv_has_native_bfloat16 = lambda: int(native)

    def fv_use_bfloat16(self, form: Any) -> None:
        self.form = form.value


def chosen(native: bool, verdict: Path) -> str:
    library: Any = Kernels(native)
    bfloat16.choose(library, verdict)
    return bfloat16.FORMS[library.form]


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(bfloat16.VARIABLE, raising=False)
    monkeypatch.setattr(bfloat16, "_trial", lambda kernels: None)
    monkeypatch.setattr(bfloat16, "pays", lambda product: pytest.fail("tried"))
    return tmp_path / "made" / "verdict"


def test_without_the_instruction_products_are_float32(verdict):
    assert chosen(False, verdict) == "off"
    assert not verdict.exists()


@pytest.mark.parametrize(("pays", "found"), [(True, "native"), (False, "off")])
def test_the_instruction_is_tried_once_a_machine(verdict, monkeypatch, pays, found):
    with monkeypatch.context() as patch:
        patch.setattr(bfloat16, "pays", lambda product: pays)
        assert chosen(True, verdict) == found
    assert chosen(True, verdict) == found
    verdict.write_bytes(b"\xff\xfe")
    monkeypatch.setattr(bfloat16, "pays", lambda product: not pays)
    assert chosen(True, verdict) != found


def test_a_cache_that_cannot_be_written_is_no_fault(verdict, monkeypatch):
    verdict.parent.write_text("a file")
    monkeypatch.setattr(bfloat16, "pays", lambda product: True)
    assert chosen(True, verdict) == "native"


@pytest.mark.parametrize("wanted", bfloat16.FORMS)
def test_a_variable_forces_the_form(verdict, monkeypatch, wanted):
    monkeypatch.setenv(bfloat16.VARIABLE, wanted)
    assert chosen(True, verdict) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fp8", "FASTVLM_BFLOAT16=fp8: unknown; use native, emulated or off"),
        (
            "native",
            "FASTVLM_BFLOAT16=native: this processor has no AVX512-BF16;"
            " unset FASTVLM_BFLOAT16",
        ),
    ],
)
def test_a_form_that_cannot_be_is_refused(verdict, monkeypatch, value, message):
    monkeypatch.setenv(bfloat16.VARIABLE, value)
    with pytest.raises(OptionError) as error:
        chosen(False, verdict)
    assert str(error.value) == message


def test_the_program_says_so_in_one_line(library, run, monkeypatch):
    monkeypatch.setenv(bfloat16.VARIABLE, "fp8")
    kernels.library.cache_clear()
    try:
        said = run("chat", "-m", "demo", "-p", "What?", EXAMPLES / "shapes.png")
    finally:
        kernels.library.cache_clear()
    message = "FASTVLM_BFLOAT16=fp8: unknown; use native, emulated or off"
    assert said == (1, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("fault", "slower", "wanted"),
    [(0, "off", True), (0, "native", False), (1, "off", False), (np.nan, "off", False)],
)
def test_it_pays_if_right_and_faster(monkeypatch, fault, slower, wanted):
    clock = [0.0]
    monkeypatch.setattr(bfloat16.time, "perf_counter", lambda: clock[0])

    def product(form: str) -> np.ndarray:
        clock[0] += 2 if form == slower else 1
        numbers = np.arange(100, dtype=np.float32)
        return numbers + fault if form == "native" else numbers

    assert bfloat16.pays(product) is wanted


def test_the_trial_computes_the_same_in_all_forms(library):
    product = bfloat16._trial(library)
    exact = product("off")
    assert exact.std() > 10
    assert_close("emulated", product("emulated"), exact, 0.02)
