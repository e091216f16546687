"""`video`: command lines and files that cannot be, each in one line."""

import pytest

from tests.support.small_videos import stills, world_scenes, write_video
from training import drawing

pytest_plugins = ["tests.support.video_runs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", " "], "'-p' is empty"),
        (["--ask", ""], "'--ask' is empty"),
        (["--batch", "0"], "--batch 0: must be at least 1"),
        (["--every", "2s", "--frames", "3"], "--every and --frames: choose frames by"),
        (["--every", "0"], "--every 0: must be at least 0.001 seconds"),
        (["--every", "often"], "--every 'often': no time; write 90, 2.5s or 1:30"),
        (["--frames", "0"], "--frames 0: must be from 1 to 10000"),
        (["--from", "3", "--to", "2"], "--to 2: must be after the start, 3 seconds"),
        (["--from", "10"], "--from 00:10: the video ends at 00:05.94"),
        (["--ask", "x", "--frames", "9"], "--frames 9: --ask looks at 8 frames at"),
        (
            ["--ask", "x", "-p", "y"],
            "--ask gives one answer and no lines; leave out -p",
        ),
        (["--ask", "x", "--summary"], "leave out --summary"),
        (["--ask", "x", "-o", "out.srt"], "leave out -o"),
        (["--summary", "--format", "srt"], "--summary with --format srt needs -o FILE"),
        (["-o", "out.doc"], "-o out.doc: its form is unknown; give it one of .jsonl"),
        (["--sheet", "out.pdf"], "--sheet out.pdf: name a .jpg, .png or .webp file"),
    ],
)
def test_options_that_cannot_be(quick_video, clip, options, message):
    out, err = quick_video(clip, *options, code=2)
    assert out == "" and len(err.splitlines()) == 1
    assert message in err


def test_no_video_is_one_line(quick_video, tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    for name in ("a.mp4", "gone.mp4"):
        out, err = quick_video(tmp_path / name, code=1)
        assert out == "" and len(err.splitlines()) == 1
        assert err.startswith(f"error: {tmp_path / name}: ")


def test_a_cut_off_video_is_described_as_far_as_it_goes(quick_video, clip, tmp_path):
    whole = write_video(
        tmp_path / "whole.mkv",
        stills([drawing.render(s) for s in world_scenes(4)], 1.5),
        options={"g": "5"},
    )
    part = tmp_path / "part.mkv"
    data = whole.read_bytes()
    part.write_bytes(data[: len(data) * 6 // 10])
    out, err = quick_video(part)
    assert 1 <= len(out.splitlines()) < 4
    assert f"warning: {part}: damaged or cut off after 00:0" in err
