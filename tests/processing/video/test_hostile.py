"""Files that try to make FFmpeg open others, or to fill the memory, are refused."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import FFmpegError

from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.video import VideoLimits, open_video, sample
from fastvlm_mlx.processing.video.access import CONTAINERS, options
from tests.support.memory_growth import growth
from tests.support.small_videos import scene_images, stills, write_video

IMAGES = scene_images(2)
SECRET = "/etc/passwd"
PLAYLISTS = {
    "clip.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "clip.mp4": "\ufeff#EXTM3U\n#EXTINF:9,\n{0}\n",
    "clip.ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "clip.mpd": '<?xml version="1.0"?>\n<MPD><BaseURL>{0}</BaseURL></MPD>',
    "clip.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 9",
    "clip.pls": "[playlist]\nFile1={0}\n",
    "clip.asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
}


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and what it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", paths
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_refused_and_not_followed(tmp_path: Path, name: str, asked):
    address, paths = asked
    for target in (SECRET, f"{address}part.ts"):
        path = tmp_path / name
        path.write_text(PLAYLISTS[name].format(target), encoding="utf-8")
        for source in (path, path.read_bytes()):
            with pytest.raises(VideoError, match="which may name any file or address"):
                open_video(source)
    assert paths == []


@pytest.mark.parametrize("name", PLAYLISTS)
def test_ffmpeg_itself_refuses_them_too(tmp_path: Path, name: str, asked):
    address, paths = asked
    path = tmp_path / name
    # Before its mark stands something that our own check does not know.
    path.write_text(PLAYLISTS[name].format(f"{address}part.ts").strip("\ufeff"))
    with pytest.raises((FFmpegError, ValueError)):
        av.open(str(path), "r", options=options(None), timeout=5).close()
    assert paths == []


def test_no_list_of_files_is_among_the_containers():
    names = {name for one in CONTAINERS for name in one.split(",")}
    assert not names & {"hls", "concat", "dash", "sdp", "image2", "lavfi", "tee", "imf"}


def test_names_that_ffmpeg_reads_as_addresses_are_files(tmp_path: Path, monkeypatch):
    video = write_video(tmp_path / "clip.mp4", stills(IMAGES, 1))
    monkeypatch.chdir(tmp_path)
    for name in ("concat:clip.mp4", "subfile,,start,0,end,9,,:clip.mp4", "pipe:0"):
        with pytest.raises(VideoError, match="no such file; check the path"):
            open_video(name)
    strange = tmp_path / "concat:a|b.mp4"
    strange.write_bytes(video.read_bytes())
    with open_video(strange.name) as opened:
        assert len(list(sample(opened))) == 2


def test_a_playlist_behind_an_address_is_not_followed(tmp_path: Path, asked):
    address, paths = asked

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = PLAYLISTS["clip.m3u8"].format(f"{address}part.ts").encode()
            self.send_response(200)
            self.send_header("content-type", "application/vnd.apple.mpegurl")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/live.m3u8"
        with pytest.raises(VideoError, match=r"live.m3u8: no video that is opened"):
            open_video(url)
        server.shutdown()
    assert paths == []


def test_a_bomb_takes_no_memory(tmp_path: Path):
    # 16,000 x 16,000 pixels of one colour are few bytes, and 768 MB as RGB.
    size = 16_000
    path = tmp_path / "bomb.gif"
    header = b"GIF89a" + size.to_bytes(2, "little") * 2 + b"\x80\0\0" + bytes(6)
    frame = b"," + bytes(4) + size.to_bytes(2, "little") * 2 + b"\0\2\2\x44\1\0"
    path.write_bytes(header + frame * 50 + b";")
    with (
        growth() as grown,
        pytest.raises(VideoError, match=r"bomb.gif: .* more than 40 megapixels"),
        open_video(path) as video,
    ):
        next(video.frames())
    assert grown() < 100e6


def test_frames_that_grow_are_refused(tmp_path: Path):
    # Each part of an MPEG stream says how large its frames are.
    small, large = tmp_path / "small.ts", tmp_path / "large.ts"
    write_video(small, stills(IMAGES, 1))
    huge = np.zeros((2048, 2048, 3), np.uint8)
    write_video(large, ((time + 2, huge) for time, _ in stills(IMAGES[:1], 0.3)))
    path = tmp_path / "clip.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(path, limits=VideoLimits(frame_pixels=1_000_000)) as video:
        seen = [frame.image.size for frame in video.frames()]
    assert set(seen) == {(256, 256)}


def test_memory_is_bounded(tmp_path: Path):
    """Two hundred frames of 3 MB each, of which few are held at a time."""
    image = scene_images(1)[0].repeat(4, 0).repeat(4, 1)
    frames = ((at / 10, np.roll(image, 8 * at, 1)) for at in range(200))
    path = write_video(tmp_path / "clip.mp4", frames)
    with open_video(path) as video:
        opened = video.frames()
        for _ in range(20):
            assert next(opened).image.size == (1024, 1024)
        with growth() as grown:
            assert sum(frame.image.size == (1024, 1024) for frame in opened) == 180
        assert grown() < 60e6
