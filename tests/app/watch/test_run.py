"""`watch` from a source to its lines: scripted sequences, kills, ends, messages."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.app import session
from fastvlm_mlx.app.watch import folder, stream
from fastvlm_mlx.fastvlm import load
from tests.support.missing_extras import pretend_missing
from tests.support.posted import posts
from tests.support.small_videos import stills, write_video
from tests.support.watched import (
    BLUE,
    FIRES,
    QUESTION,
    RED,
    SCRIPT,
    RedModel,
    put,
    scene,
)
from tests.support.x_screen import Screen, x_screen

WHEN = ("--when", QUESTION, "-m", "demo")
SECONDS = 0.5  # of a scene of the video


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may be written at this moment."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


@pytest.fixture
def red(monkeypatch) -> RedModel:
    """Models that are loaded are one that answers at once."""
    model = RedModel()
    monkeypatch.setattr(session, "open_model", lambda name, **options: (name, model))
    return model


@pytest.fixture
def alongside() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Runs a function beside the program, which gets SIGTERM at its end."""
    threads: list[threading.Thread] = []
    faults: list[BaseException] = []

    def start(work: Callable[[], None]) -> None:
        def whole() -> None:
            try:
                work()
            except BaseException as fault:
                faults.append(fault)
            os.kill(os.getpid(), signal.SIGTERM)

        threads.append(threading.Thread(target=whole))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(60)
    assert not faults, faults


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """The scripted sequence, each scene for `SECONDS`."""
    images = [np.asarray(scene(*each)) for each in SCRIPT]
    path = tmp_path_factory.mktemp("video") / "scenes.mp4"
    return write_video(path, stills(images, SECONDS))


def start(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fastvlm_mlx", "watch", *map(str, arguments)]
    return subprocess.Popen(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def end(process: "subprocess.Popen[str]") -> str:
    """Ends it cleanly; what it said."""
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def test_a_folder_killed_twice(tmp_path):
    inbox, log = tmp_path / "inbox", tmp_path / "log.jsonl"
    inbox.mkdir()
    command = f"cat >> {tmp_path}/fired.jsonl"
    arguments = (inbox, *WHEN, "--all", "-o", log, "--run", command)

    def add(number: int, image: Image.Image) -> None:
        put(inbox, number, image, second=number)

    running = start(*arguments)
    add(0, scene(*SCRIPT[0]))
    add(1, scene(*SCRIPT[1]))
    until(lambda: len(lines(log)) == 2)
    kill(running)
    # While it is down: still a red circle, in another image; and nothing new.
    add(2, Image.eval(scene(*SCRIPT[1]), lambda value: value * 9 // 10))
    add(3, Image.eval(scene(*SCRIPT[1]), lambda value: value * 9 // 10))
    running = start(*arguments)
    until(lambda: len(lines(log)) == 4)
    add(4, scene(*SCRIPT[2]))
    until(lambda: len(lines(log)) == 5)
    kill(running)
    add(5, scene(*SCRIPT[3]))
    running = start(*arguments)
    add(6, scene(*SCRIPT[4]))
    add(7, scene(*SCRIPT[5]))
    until(lambda: len(lines(log)) == 8)
    said = end(running)
    found = lines(log)
    assert [Path(line["image"]).stem for line in found] == [f"{n:03}" for n in range(8)]
    assert [bool(line.get("fired")) for line in found] == [
        number in (1, 6) for number in range(8)
    ]
    assert found[2]["probability"] > 0.6 and found[2]["active"]
    assert found[3]["unchanged"] is True
    fired = [
        (line["image"], line["answer"]) for line in lines(tmp_path / "fired.jsonl")
    ]
    assert fired == [(f["image"], f["answer"]) for f in found if f.get("fired")]
    assert all("red circle" in answer for _, answer in fired)
    assert "3 images" in said and "fired 1 times" in said


def test_a_screen(run, monkeypatch, alongside, tmp_path):
    model = load("demo")
    monkeypatch.setattr(session, "open_model", lambda name, **options: (name, model))
    log = tmp_path / "log.jsonl"
    with x_screen() as screen:
        monkeypatch.setenv("DISPLAY", screen.display)
        screen.show(scene(*SCRIPT[0]))

        def script() -> None:
            for number, each in enumerate(SCRIPT):
                screen.show(scene(*each))
                until(lambda number=number: len(lines(log)) == number + 1)

        alongside(script)
        result = run("watch", "screen", *WHEN, "-o", log, "--fps", "20")
    assert result.code == 0, result.err
    fired = [at for at, line in enumerate(lines(log)) if line["fired"]]
    assert fired == list(FIRES)
    assert all(line["source"] == "screen" for line in lines(log))
    assert "6 new: " in result.err and "fired 2 times" in result.err


def test_a_video_at_its_own_speed(run, red, video, tmp_path):
    log = tmp_path / "log.jsonl"
    arguments = ("watch", video, *WHEN, "-o", log, "--fps", "30")
    begun = time.monotonic()
    result = run(*arguments)
    seconds = time.monotonic() - begun
    assert result.code == 0, result.err
    assert len(SCRIPT) * SECONDS - 0.2 <= seconds < len(SCRIPT) * SECONDS + 10
    found = lines(log)
    assert [line["position"] // SECONDS for line in found] == [0, 1, 2, 3, 4, 5]
    assert [line["fired"] for line in found] == [
        # The stand-in sees the colour alone.
        kind_and_colour[1] == RED and SCRIPT[at - 1][1] != RED
        for at, kind_and_colour in enumerate(SCRIPT)
    ]
    assert red.asked == 6 and "6 new: " in result.err
    # Killed after the third line: it goes on there, and asks about nothing again.
    kept = log.read_text().splitlines(True)[:3]
    log.write_text("".join(kept) + '{"source": "half a li')
    again = run(*arguments)
    assert again.code == 0, again.err
    assert red.asked == 9
    assert [line["fired"] for line in lines(log)] == [line["fired"] for line in found]


@pytest.mark.slow
def test_a_video_and_a_screen_killed_twice(tmp_path):
    """As the folder, with the demo model; scenes last as long as it needs."""
    images = [np.asarray(scene(*each)) for each in SCRIPT]
    path = write_video(tmp_path / "long.mp4", stills(images, 6))
    log = tmp_path / "video.jsonl"
    for count in (2, 4, 6):
        running = start(path, *WHEN, "-o", log, "--fps", "10")
        until(lambda count=count: len(lines(log)) == count)
        kill(running)
    found = lines(log)
    assert [line["position"] // 6 for line in found] == [0, 1, 2, 3, 4, 5]
    assert [at for at, line in enumerate(found) if line["fired"]] == list(FIRES)
    log = tmp_path / "screen.jsonl"
    with x_screen() as screen:
        for first in (0, 2, 4):
            screen.show(scene(*SCRIPT[first]))
            running = start(
                "screen", *WHEN, "-o", log, "--fps", "10", DISPLAY=screen.display
            )
            for number in (first, first + 1):
                screen.show(scene(*SCRIPT[number]))
                until(lambda number=number: len(lines(log)) == number + 1)
            kill(running)
    found = lines(log)
    assert [at for at, line in enumerate(found) if line["fired"]] == list(FIRES)


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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
        assert "videos need PyAV; " in result.err and "'av>=15'" in result.err


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


def test_a_screen_and_its_parts(monkeypatch):
    from fastvlm_mlx.app.watch.screen import ScreenSource
    from fastvlm_mlx.errors import OptionError

    with x_screen() as shown:
        monkeypatch.setenv("DISPLAY", shown.display)
        _check_parts(shown, ScreenSource)
        with pytest.raises(
            OptionError, match="screen:7: no such screen; choose 1 to 1"
        ):
            ScreenSource("screen:7", 5).open()


def _check_parts(shown: Screen, source: Any) -> None:
    image = Image.new("RGB", (320, 256), "blue")
    image.paste("red", (100, 50, 140, 80))
    shown.show(image)
    stop = threading.Event()
    whole = next(source("screen", 5).shots(stop)).image()
    assert (whole.size, whole.getpixel((120, 60))) == ((320, 256), (255, 0, 0))
    part = next(source("screen:100,50,40,30", 5).shots(stop)).image()
    assert (part.size, part.getcolors()) == ((40, 30), [(1200, (255, 0, 0))])


def test_names_of_folders_that_look_like_devices(tmp_path, monkeypatch):
    from fastvlm_mlx.app.watch.sources import source_of

    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera").mkdir()
    made = source_of("./camera", rate=1, from_start=False)
    assert isinstance(made, folder.FolderSource) and made.name == "camera"
    assert isinstance(
        source_of("camera", rate=1, from_start=False), stream.CameraSource
    )
