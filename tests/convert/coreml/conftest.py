"""The small reference model whose encoder the tests export."""

from pathlib import Path

import pytest

from fastvlm_mlx import FastVLM, load


@pytest.fixture(scope="module")
def model(reference: Path) -> FastVLM:
    """`llava-mini` in float32."""
    return load(reference / "llava-mini", dtype="float32")
