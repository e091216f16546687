"""The `video_url` part: frames at scene changes, within the rules for images."""

import base64
import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine import engine, fetch, videos  # noqa: E402
from fastvlm_mlx.app.server.engine.request import Message  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.processing.image_file import open_image  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402
from tests.support.small_videos import scene_images, stills, write_video  # noqa: E402

PLAYLIST = b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Three scenes of a second."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return write_video(path, stills(scene_images(3), 1.0)).read_bytes()


def data_url(data: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(data).decode()}"


def ask(server: RunningServer, *parts: Any):
    content = [{"type": "text", "text": "What happens?"}, *parts]
    messages = [{"role": "user", "content": content}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 2}
    return server.send("/v1/chat/completions", body)


def part(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def test_a_video_is_seen_as_labelled_frames(server, clip, monkeypatch):
    seen: list[tuple[str, ...]] = []
    usual = engine.Engine.stream

    def stream(self, request, cancel):
        (message,) = request.messages
        seen.append(message.labels)
        assert not message.videos and len(message.images) == 3
        return usual(self, request, cancel)

    monkeypatch.setattr(engine.Engine, "stream", stream)
    answer = ask(server, part(data_url(clip)))
    assert answer.status == 200, answer.body
    usage = answer.json()["usage"]
    assert usage["prompt_tokens_details"]["image_tokens"] == 3 * 16
    labels = ("frame at 0.0 s:", "frame at 1.0 s:", "frame at 2.0 s:")
    assert seen == [labels]
    # The labels are in the prompt, and the URL alone will do as well.
    plain = ask(server, {"type": "video_url", "video_url": data_url(clip)})
    assert plain.json()["usage"]["prompt_tokens"] == usage["prompt_tokens"]


def test_frames_are_those_of_the_video(clip):
    message = Message("user", "?", (clip,), ("here",), videos=frozenset({0}))
    (expanded,) = videos.expand([message], Limits())
    assert expanded.fields == ("here",) * 3
    for file, scene in zip(expanded.images, scene_images(3), strict=True):
        assert isinstance(file, bytes)
        image = open_image(file)
        assert image.size == (256, 256)
        seen = np.asarray(image, np.float32)
        assert np.abs(seen - scene).mean() < 8


def test_images_and_videos_share_the_limit(clip, tmp_path):
    many = write_video(tmp_path / "many.mp4", stills(scene_images(12), 1.0, 5))
    data = many.read_bytes()
    image = b"an image"
    messages = [
        Message("user", "a", (image, data), ("a", "b"), videos=frozenset({1})),
        Message("assistant", "b"),
        Message("user", "c", (data,), ("c",), videos=frozenset({0})),
    ]
    first, _, last = videos.expand(messages, Limits(images=9))
    assert first.images[0] == image and len(first.images) == 5
    assert first.labels[0] == "" and first.labels[1] == "frame at 0.0 s:"
    assert len(last.images) == 4 and last.labels[-1] == "frame at 11.0 s:"
    (one,) = videos.expand([messages[2]], Limits())
    assert len(one.images) == 8
    with pytest.raises(APIError, match="1 images and 2 videos; at most 2 images"):
        videos.expand(messages, Limits(images=2))


def test_turns_of_one_role_keep_their_videos(server, clip):
    user = {"role": "user", "content": [part(data_url(clip))]}
    body = {"model": "tiny", "messages": [user, user], "max_tokens": 2}
    answer = server.send("/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    details = answer.json()["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == 6 * 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no video", "video of 8 bytes: no video that is opened here"),
        (PLAYLIST, "an HLS playlist, which may name any file or address"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "a list of FFmpeg's, which"),
    ],
)
def test_what_is_no_video_is_refused(server, data, message):
    answer = ask(server, part(data_url(data)))
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_video"
    assert error["param"] == "messages[0].content[1].video_url.url"
    assert message in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "give data:video/...;base64,... or an http(s) address"),
        ("rtsp://127.0.0.1/x", "give data:video/...;base64,... or an http(s) address"),
        ("/etc/passwd", "give data:video/...;base64,... or an http(s) address"),
        ("data:video/mp4;base64,***", "is not base64 of a video file"),
        ("data:video/mp4,abc", "a data: url must be data:video/...;base64,..."),
        ("http://example.org/clip.mp4", "at example.org are not allowed"),
    ],
)
def test_addresses_are_refused(server, url, message):
    answer = ask(server, part(url))
    assert answer.status == 400
    assert message in answer.json()["error"]["message"]


def test_a_video_is_fetched_as_images_are(tiny: Path, clip, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = PLAYLIST if self.path == "/list" else clip
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        with running(tiny, image_hosts=("127.0.0.1",)) as server:
            refused = ask(server, part(f"{url}/clip"))
            assert "must use the usual port" in refused.json()["error"]["message"]
            monkeypatch.setitem(fetch.PORTS, "http", web.server_port)
            private = ask(server, part(f"{url}/clip"))
            assert "not public" in private.json()["error"]["message"]
            monkeypatch.setattr(fetch, "_resolve_public", lambda host, port: [host])
            assert ask(server, part(f"{url}/clip")).status == 200
            listed = ask(server, part(f"{url}/list"))
            assert "an HLS playlist" in listed.json()["error"]["message"]
        web.shutdown()


def test_decoding_has_limits(clip):
    message = Message("user", "?", (clip,), ("here",), videos=frozenset({0}))
    for limits, fault in (
        (Limits(pixels=1000), "here: video of .* more than 0.001 megapixels"),
        (Limits(video_pixels=1000), "more than 0.001 megapixels in all its frames"),
        (Limits(video_time=0), "not decoded within 0 s"),
    ):
        with pytest.raises(APIError, match=fault):
            videos.expand([message], limits)


def test_without_pyav_the_server_says_so(server, clip, monkeypatch):
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        videos, "find_spec", lambda name: None if name == "av" else usual(name)
    )
    answer = ask(server, part(data_url(clip)))
    assert answer.status == 400
    message = answer.json()["error"]["message"]
    assert message == (
        "this server takes no videos: PyAV is missing; send images of them"
    )
