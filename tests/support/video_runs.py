"""What the tests of `video` share: the program in this process, and a video."""

from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx import fastvlm, load
from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from tests.support.captions import captions_by
from tests.support.small_videos import scene_images, stills, write_video


@pytest.fixture(scope="session")
def demo():
    return load("demo")


@pytest.fixture
def video(run, monkeypatch, demo):
    """Calls `video` in this process with the demo model, loaded once."""
    monkeypatch.setattr(fastvlm, "load", lambda name, **options: demo)

    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        shown = run("video", "-m", "demo", "--max-tokens", "24", *arguments)
        assert shown.code == code, shown.err
        return shown.out, shown.err

    return call


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Four scenes of 1.5 seconds, each in the same frame for all of its time."""
    return write_video(tmp_path / "clip.mp4", stills(scene_images(4), 1.5))


@pytest.fixture
def quick_video(video, monkeypatch):
    """As `video`, at no cost: a caption is the mean of what the model sees."""

    def answer(captioner: Captioner, pixels: np.ndarray) -> Caption:
        return Caption(f"mean {pixels.mean():.3f}", "stop")

    monkeypatch.setattr(Captioner, "captions", captions_by(answer))
    return video
