"""What the tests of `caption` share: the program, called with a tiny model."""

from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx import fastvlm
from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from tests.support.captions import captions_by
from tests.support.mock_model import make_image


@pytest.fixture
def caption(run, monkeypatch, tiny_model, tiny):
    """Calls `caption` in this process, with a model that is loaded once."""
    monkeypatch.setattr(fastvlm, "load", lambda name, **options: tiny_model)

    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        shown = run("caption", "-m", tiny, "--max-tokens", "6", *arguments)
        assert shown.code == code, shown.err
        return shown.out, shown.err

    return call


@pytest.fixture
def quick(caption, monkeypatch):
    """As `caption`, at no cost: a caption is the mean of what the model sees."""

    def answer(captioner: Captioner, pixels: np.ndarray) -> Caption:
        return Caption(f"{pixels.mean():.6f}", "stop")

    monkeypatch.setattr(Captioner, "captions", captions_by(answer))
    return caption


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images, 1.png to 12.png."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(1, 13):
        make_image(seed).save(folder / f"{seed}.png")
    return folder
