"""`--when` fires exactly at the right scenes of a scripted sequence, kills or not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.app import session
from fastvlm_mlx.fastvlm import load
from tests.support.small_videos import stills, write_video
from tests.support.watched import (
    FIRES,
    RED,
    SCRIPT,
    SECONDS,
    WHEN,
    lines,
    put,
    scene,
    until,
)
from tests.support.x_screen import x_screen


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
