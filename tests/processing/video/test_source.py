"""Videos as they are found: turned, mirrored, damaged, with sound, on any place."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import OptionError, VideoError
from fastvlm_mlx.processing.video import VideoLimits, open_video, sample
from tests.support.small_videos import scene_images, stills, write_sound, write_video

IMAGES = scene_images(3)
WIDE = IMAGES[0][:160]


def first_image(path: Path) -> Image.Image:
    with open_video(path) as video:
        return next(video.frames()).image


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_the_display_matrix_is_honoured(tmp_path: Path, angle: int, mirrored: bool):
    path = write_video(
        tmp_path / "clip.mp4", [(0, WIDE)], rotation=angle, mirrored=mirrored
    )
    # av_display_matrix_flip turns first and mirrors the result from left to right.
    shown = np.rot90(WIDE, angle // 90)
    shown = shown[:, ::-1] if mirrored else shown
    image = first_image(path)
    assert image.size == shown.shape[1::-1]
    assert np.abs(np.asarray(image, np.float32) - shown).mean() < 6


def test_pixels_become_square(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", [(0, WIDE)], aspect=Fraction(4, 3))
    assert first_image(path).size == (341, 160)


def test_bytes_paths_and_sound(tmp_path: Path):
    path = write_video(tmp_path / "a b.mp4", stills(IMAGES, 1), sound=True)
    for source in (path, str(path), path.read_bytes()):
        with open_video(source) as video:
            assert video.size == (256, 256)
            assert video.duration == pytest.approx(3, abs=0.1)
            assert [frame.time for frame in sample(video)] == [0, 1, 2]


def test_frames_can_be_had_again(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", stills(IMAGES, 1))
    with open_video(path) as video:
        for _ in range(2):
            assert len(list(video.frames())) == 30
        assert [f.time for f in video.frames_at([0.55, 2.5])] == [0.55, 2.5]


def test_a_video_without_a_duration_is_measured(tmp_path: Path):
    path = write_video(tmp_path / "clip.mkv", stills(IMAGES, 1))
    with open_video(path) as video:
        video.duration = None
        assert video.measured_duration() == pytest.approx(2.9, abs=0.01)
        assert len(list(sample(video, count=3))) == 3


def test_a_cut_off_video_is_read_as_far_as_it_goes(tmp_path: Path):
    whole = write_video(
        tmp_path / "clip.mp4",
        stills(IMAGES, 2, 25),
        options={"g": "10", "movflags": "+faststart"},
    )
    data = write_video(tmp_path / "clip.ts", stills(IMAGES, 2, 25)).read_bytes()
    part = tmp_path / "part.ts"
    part.write_bytes(data[: len(data) // 2])
    with open_video(part) as video:
        times = [frame.time for frame in sample(video)]
    assert times[0] == 0 and len(times) in (1, 2)
    # The list of frames of an MP4 is at its end.
    part = tmp_path / "part.mp4"
    part.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(VideoError, match=r"part.mp4: .*damaged at its start or end"):
        open_video(part)


def test_damaged_packets_are_left_out(tmp_path: Path):
    path = write_video(tmp_path / "clip.ts", stills(IMAGES, 2, 25))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    with open_video(path) as video:
        last = [frame.time for frame in video.frames()][-1]
    assert last > 5


def test_sound_alone_is_refused(tmp_path: Path):
    path = write_sound(tmp_path / "song.m4a")
    with pytest.raises(VideoError, match="song.m4a: has sound but no video; give"):
        open_video(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no video at all" * 100, "no video that is opened here"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "no video that is opened here"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(100), "no video that is opened here"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(VideoError, match=message) as caught:
            open_video(source)
        assert len(str(caught.value).splitlines()) == 1


def test_places_are_refused(tmp_path: Path):
    with pytest.raises(VideoError, match=r"gone.mp4: no such file; check the path"):
        open_video(tmp_path / "gone.mp4")
    with pytest.raises(VideoError, match="is a folder; give a video file"):
        open_video(tmp_path)
    with pytest.raises(VideoError, match="/dev/zero: is no file; give a video file"):
        open_video("/dev/zero")
    with pytest.raises(VideoError, match="ftp: addresses are not opened; give a path"):
        open_video("ftp://example.org/clip.mp4")
    with pytest.raises(VideoError, match="device 'lavfi' is unknown; use avfoundation"):
        open_video("testsrc", device="lavfi")


def test_limits(tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", stills(IMAGES, 1))
    message = "frames of 256x256 pixels, more than 0.06 megapixels; scale it down"
    with pytest.raises(VideoError, match=message):
        open_video(path, limits=VideoLimits(frame_pixels=60_000))
    with open_video(path, limits=VideoLimits(pixels=500_000)) as video:
        with pytest.raises(VideoError, match="more than 0.5 megapixels in all its"):
            list(video.frames())
    with open_video(path, limits=VideoLimits(seconds=0)) as video:
        with pytest.raises(VideoError, match="not decoded within 0 s; cut or"):
            list(video.frames())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 1, "count": 2}, "choose frames by one of them"),
        ({"every": 0}, "every 0: must be at least 0.001 seconds"),
        ({"every": float("nan")}, "every nan: must be at least"),
        ({"count": 0}, "count 0: must be from 1 to 10000"),
        ({"start": -1}, "start -1: must be 0 seconds or later"),
        ({"start": 5, "end": 5}, "end 5: must be after the start, 5 seconds"),
    ],
)
def test_impossible_samples(tmp_path: Path, options: dict, message: str):
    with open_video(write_video(tmp_path / "clip.mp4", [(0, WIDE)])) as video:
        with pytest.raises(OptionError, match=message):
            sample(video, **options)


def test_without_pyav_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_video(tmp_path / "clip.mp4", [(0, WIDE)])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"clip.mp4: videos need PyAV; .*install .*av"):
        open_video(path)
