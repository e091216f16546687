"""The demo model answers alike in float32, in 16 bits and in the form of a GPU."""

import json
from collections.abc import Iterator

import pytest

from benchmarks.encoder import gpu_form
from fastvlm_mlx import FastVLM, load
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from tests.support.compiling import compiling
from tests.support.paths import EXAMPLES

pytestmark = pytest.mark.mac  # minutes: 16 bits are slow on a CPU


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    with compiling(False):
        yield


def answers(model: FastVLM) -> list[str]:
    asked = json.loads((EXAMPLES / "questions.json").read_text())
    return [
        model.ask(pair["question"], EXAMPLES / name, temperature=0.0)
        for name, pairs in asked.items()
        for pair in pairs
    ]


@pytest.fixture(scope="module")
def wanted() -> list[str]:
    found = answers(load("demo", dtype="float32"))
    assert len(found) == 76
    return found


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gpus_form_gives_the_same_answers(wanted: list[str], dtype: str):
    model = load("demo", dtype=dtype)
    assert model.vision_tower is not None
    fold_ffn_biases(model.vision_tower)
    with gpu_form():
        found = answers(model)
    same = sum(a == b for a, b in zip(found, wanted, strict=True))
    print(f"{dtype}, GPU form: {same} of {len(wanted)} the same")
    assert same == len(wanted)


def test_float16_gives_the_same_answers(wanted: list[str]):
    found = answers(load("demo", dtype="float16"))
    assert found == wanted
