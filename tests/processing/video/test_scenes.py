"""Scenes are found exactly: cuts, still stretches, fades, noise, any rate."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.processing.video import open_video, sample
from tests.support.small_videos import scene_images, stills, write_video

IMAGES = scene_images(5)
FAST = {"cpu-used": "16", "deadline": "realtime"}
CUTS = [0.0, 1.5, 3.0, 4.5, 6.0]


def found(path: Path, **options) -> list[float]:
    with open_video(path) as video:
        times = [round(frame.time, 2) for frame in sample(video, **options)]
        assert video.fault is None
        return times


def fade(first, second, seconds: float, rate: int = 10) -> Iterator:
    """Two seconds of the first, a slow change, two seconds of the second."""
    still, steps = 2 * rate, round(seconds * rate)
    for at in range(still * 2 + steps):
        share = min(max((at - still) / steps, 0), 1)
        yield at / rate, (first * (1 - share) + second * share).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"codec": "mpeg4"},
        {"codec": "libx265", "pixels": "yuv420p10le"},
        {"pixels": "yuv444p", "size": (251, 121)},
        {"codec": "libvpx", "name": "clip.webm", "options": FAST},
        {"name": "clip.ts"},
        {"codec": "mjpeg", "pixels": "yuvj420p", "name": "clip.avi"},
        {"codec": "ffv1", "pixels": "bgr0", "name": "clip.mkv"},
    ],
    ids=lambda o: "-".join(map(str, list(o.values())[:2])) or "h264",
)
def test_cuts_are_exact(tmp_path: Path, options: dict):
    options = dict(options)
    path = tmp_path / options.pop("name", "clip.mp4")
    frames = stills(IMAGES, 1.5, options.pop("rate", 10))
    assert found(write_video(path, frames, **options)) == CUTS


@pytest.mark.parametrize("sigma", [10, 25])
def test_noise_is_no_scene(tmp_path: Path, sigma: float):
    chance = np.random.default_rng(0)
    frames = (
        (time, np.clip(image + chance.normal(0, sigma, image.shape), 0, 255))
        for time, image in stills(IMAGES, 1.5)
    )
    noisy = ((time, image.astype(np.uint8)) for time, image in frames)
    assert found(write_video(tmp_path / "clip.mp4", noisy)) == CUTS


@pytest.mark.parametrize("seconds", [0.5, 2, 6])
def test_a_fade_is_one_change(tmp_path: Path, seconds: float):
    frames = fade(IMAGES[0], IMAGES[1], seconds)
    path = write_video(tmp_path / "clip.mp4", frames)
    with open_video(path) as video:
        first, second = sample(video)
    assert first.time == 0 and 2 <= second.time <= 2 + seconds
    # It is shown as it is at the end, and not half way.
    seen = np.asarray(second.image, np.float32)
    assert np.abs(seen - IMAGES[1]).mean() < 6


def test_a_flash_is_no_scene(tmp_path: Path):
    frames = [
        (time, np.full_like(image, 255) if 1.0 <= time < 1.15 else image)
        for time, image in stills(IMAGES[:1], 3)
    ]
    assert found(write_video(tmp_path / "clip.mp4", frames)) == [0.0]


def test_black_between_two_scenes_is_no_scene(tmp_path: Path):
    black = np.zeros_like(IMAGES[0])
    frames = stills([black, IMAGES[0], black, IMAGES[1], black], 1.5)
    assert found(write_video(tmp_path / "clip.mp4", frames)) == [1.5, 4.5]


def test_a_black_video_has_one_scene(tmp_path: Path):
    frames = stills([np.zeros_like(IMAGES[0])], 1.5)
    assert found(write_video(tmp_path / "clip.mp4", frames)) == [0.0]


def test_short_scenes_are_found(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", stills(IMAGES, 0.4, 25))
    assert found(path) == [0.0, 0.4, 0.8, 1.2, 1.6]


def test_a_moving_camera_is_seen_now_and_then(tmp_path: Path):
    wide = np.concatenate(scene_images(7), 1)
    frames = [(at / 25, wide[:, at * 8 : at * 8 + 256]) for at in range(190)]
    assert 3 <= len(found(write_video(tmp_path / "clip.mp4", frames))) <= 6


def test_a_variable_rate_keeps_its_times(tmp_path: Path):
    one, two, three, four, _ = IMAGES
    frames = [(0, one), (0.04, one), (3, two), (3.04, two), (7.7, three), (20, four)]
    path = write_video(tmp_path / "clip.mp4", frames)
    assert found(path) == [0.0, 3.0, 7.7, 20.0]


def test_an_hour_at_a_frame_every_two_seconds(tmp_path: Path):
    small = [image[::4, ::4] for image in IMAGES]
    frames = ((second, small[second // 720]) for second in range(0, 3600, 2))
    path = write_video(tmp_path / "clip.mkv", frames, codec="ffv1", pixels="bgr0")
    assert found(path) == [0, 720, 1440, 2160, 2880]
    assert found(path, start=1500, end=2170) == [1500, 2160]


def test_every_and_count(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", stills(IMAGES, 1.5))
    assert found(path, every=1) == [0, 2, 3, 5, 6]
    assert found(path, every=1, start=2.5, end=5.5) == [2.5, 3.5, 4.5]
    assert found(path, count=2) == pytest.approx([1.86, 5.58], abs=0.02)
    assert len(found(path, count=500)) == 5


def test_a_part_begins_with_what_is_shown_there(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", stills(IMAGES, 1.5))
    assert found(path, start=2.0) == [2.0, 3.0, 4.5, 6.0]
    assert found(path, start=2.0, end=4.5) == [2.0, 3.0]
    with open_video(path) as video:
        seen = np.asarray(next(sample(video, start=2.0)).image, np.float32)
    assert np.abs(seen - IMAGES[1]).mean() < 6
