"""`watch`: its lines, its end, streams and cameras, and what it says."""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from fastvlm_mlx.app.watch import folder, stream
from tests.support.missing_extras import pretend_missing
from tests.support.posted import posts
from tests.support.small_videos import stills, write_video
from tests.support.watched import (
    BLUE,
    RED,
    SCRIPT,
    WHEN,
    lines,
    put,
    scene,
    until,
)


def test_lines_without_a_condition(run, red, tmp_path, alongside):
    place = tmp_path / "inbox"
    place.mkdir()
    put(place, 1, scene("circle", RED), second=1)
    put(place, 2, scene("circle", RED), second=2)
    put(place, 3, scene("circle", BLUE), second=3)
    (place / "bad.png").write_bytes(b"words")
    with posts() as server:
        alongside(lambda: until(lambda: len(server.received) == 2) or time.sleep(1))
        result = run(
            "watch", place, "--all", "-m", "demo", "-p", "What?", "--post", server.url
        )
    assert result.code == 0, result.err
    found = [json.loads(line) for line in result.out.splitlines()]
    keys = ("answer", "unchanged", "error")
    assert [[line.get(key) for key in keys] for line in found] == [
        ["It is red.", None, None],
        [None, True, None],
        ["It is not red.", None, None],
        [None, None, found[3].get("error")],
    ]
    assert "bad.png: not an image; give" in found[3]["error"]
    assert list(found[0]) == [
        "source",
        "time",
        "image",
        "modified",
        "model",
        "prompt",
        "when",
        "answer",
    ]
    assert [json.loads(body) for *_, body in server.received] == [found[0], found[2]]


def test_an_action_that_fails_is_told_and_ends_nothing(run, red, tmp_path, alongside):
    put(tmp_path, 1, scene("circle", RED), second=1)
    log = tmp_path / "log.jsonl"
    alongside(lambda: until(lambda: lines(log)))
    source = tmp_path / "001.png"
    result = run("watch", source, *WHEN, "-o", log, "--run", "exit 7")
    assert result.code == 0
    assert "warning: --run: exit code 7\n" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_half_an_answer_is_no_line(run, red, monkeypatch, tmp_path, number):
    put(tmp_path, 1, scene("circle", RED), second=1)

    def answer(prompt: str, image: Any, sampling: Any, *, cancel: threading.Event):
        class Chunk:
            text = "word "

        yield Chunk()
        os.kill(os.getpid(), number)
        assert cancel.wait(10)

    monkeypatch.setattr(red, "answer", answer)
    before = signal.getsignal(number)
    result = run("watch", tmp_path / "001.png", "-m", "demo")
    assert (result.code, result.out) == (0, "")
    assert "1 images in " in result.err and "1 new" in result.err
    assert signal.getsignal(number) is before


def test_a_stream_that_breaks_off_is_opened_again(
    run, red, video, tmp_path, monkeypatch, alongside
):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    write_video(tmp_path / "live.ts", stills([np.asarray(scene(*SCRIPT[1]))], 0.5))
    monkeypatch.setattr(stream, "AGAIN", 0.05)
    opened: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            opened.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    handler = partial(Handler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        alongside(lambda: until(lambda: len(opened) >= 4))
        address = f"http://127.0.0.1:{server.server_port}/live.ts"
        result = run("watch", address, *WHEN, "--fps", "30")
        server.shutdown()
    assert result.code == 0, result.err
    assert f"{address}: it ended; opened again in 0.05 s" in result.err
    assert [json.loads(line)["fired"] for line in result.out.splitlines()] == [True]


def test_options_and_sources_that_cannot_be_meant(run, tmp_path, video):
    (tmp_path / "notes.txt").write_text("x")
    for arguments, code, said in (
        (
            ("none.mp4",),
            1,
            "none.mp4: no such file or folder; or give camera, screen or an address",
        ),
        ((video, "--fps", "0"), 2, "--fps 0: give 0.01 to 60 looks a second"),
        ((video, "-p", " "), 2, "'-p' is empty; try -p 'Describe the image.'"),
        ((video, "--when", ""), 2, "--when is empty; say what to look for"),
        (
            ("screen:x",),
            2,
            "screen:x: give screen, screen:2 or screen:LEFT,TOP,WIDTH,HEIGHT",
        ),
        (
            ("screen:0,0,0,5",),
            2,
            "screen:0,0,0,5: the part has no pixels; give screen,"
            " screen:2 or screen:LEFT,TOP,WIDTH,HEIGHT",
        ),
        (("camera:x",), 2, "camera:x: give camera, or camera:1 for the second one"),
    ):
        result = run("watch", *arguments, "-m", "demo")
        assert (result.code, result.out, result.err) == (code, "", f"error: {said}\n")
    for source, begin in (
        (tmp_path / "notes.txt", f"error: {tmp_path}/notes.txt: "),
        (
            "ftp://example.org/a",
            "error: ftp://example.org/a: ftp: addresses are not op",
        ),
    ):
        result = run("watch", source, "-m", "demo")
        assert result.code == 1 and result.err.startswith(begin)
        assert result.err.count("\n") == 1


def test_lines_of_another_condition_are_not_gone_on_with(run, red, video, tmp_path):
    log = tmp_path / "log.jsonl"
    put(tmp_path, 1, scene("circle", RED), second=1)
    fields = {"source": str(video), "model": "demo", "prompt": "Describe the image."}
    log.write_text(json.dumps({**fields, "when": "Is it dark?"}) + "\n")
    result = run("watch", video, *WHEN, "-o", log)
    assert result.code == 1
    assert result.err == (
        f"error: {log}: holds watch lines of when 'Is it dark?'; choose another -o,"
        " or use --overwrite to begin anew\n"
    )
    log.write_text("my diary\n")
    result = run("watch", video, *WHEN, "-o", log, "--overwrite")
    assert result.code == 1 and log.read_text() == "my diary\n"
    assert "exists and holds no watch lines; choose another" in result.err


def test_what_is_missing_is_said(run, monkeypatch, video):
    monkeypatch.setenv("DISPLAY", "")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform != "darwin":
        result = run("watch", "screen", "-m", "demo")
        assert result.code == 1 and result.err.count("\n") == 1
        assert result.err.startswith("error: screen: cannot be captured (")
    pretend_missing(monkeypatch, "mss")
    result = run("watch", "screen", "-m", "demo")
    assert result.code == 1
    assert (
        result.err.startswith("error: screen: needs mss; ")
        and "'mss>=10'" in result.err
    )
    pretend_missing(monkeypatch, "av")
    for source in (video, "camera"):
        result = run("watch", source, "-m", "demo")
        assert result.code == 1 and result.err.count("\n") == 1
        assert "videos need PyAV; " in result.err and "'av>=18.1'" in result.err


def test_cameras(run, monkeypatch):
    result = run("watch", "camera:98", "-m", "demo")
    assert result.code == 1 and result.err.count("\n") == 1
    assert result.err.startswith("error: camera:98: cannot be opened (")
    asked: list[tuple[Any, ...]] = []

    def open_video(source: str, **options: Any) -> None:
        asked.append((source, options))

    monkeypatch.setattr(stream, "open_video", open_video)
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(stream.sys, "platform", platform)
        stream.CameraSource("camera:1").open()
    assert asked == [
        ("/dev/video1", {"device": "v4l2"}),
        ("1:none", {"device": "avfoundation", "options": {"framerate": "30"}}),
    ]


def test_a_camera_that_breaks_off(video):
    camera = stream.CameraSource("camera")
    camera._video = stream.open_video(video)
    shots = camera.shots(threading.Event())
    with pytest.raises(stream.VideoError, match="camera: broke off .*; is it still c"):
        for shot in shots:
            assert shot.image().size == (256, 256)


def test_names_of_folders_that_look_like_devices(tmp_path, monkeypatch):
    from fastvlm_mlx.app.watch.sources import source_of

    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera").mkdir()
    made = source_of("./camera", rate=1, from_start=False)
    assert isinstance(made, folder.FolderSource) and made.name == "camera"
    assert isinstance(
        source_of("camera", rate=1, from_start=False), stream.CameraSource
    )
