"""A folder with four small images to write data about, and the encoder's calls."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.support.mock_model import MockModel, make_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    (place / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "c.png", "sub/d.png")):
        make_image(seed, (24 + seed, 20)).save(place / name)
    return place


@pytest.fixture
def encoded(model: MockModel, monkeypatch) -> list[int]:
    """How many squares each call of the encoder had."""
    calls: list[int] = []
    real = MockModel.encode_features

    def encode(self: MockModel, pixels: Any) -> mx.array:
        calls.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(MockModel, "encode_features", encode)
    return calls
