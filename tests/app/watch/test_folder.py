"""A folder that is watched: each file once, when it is whole, in order."""

import os
import threading
from collections.abc import Iterator

import pytest
from PIL import Image

from fastvlm_mlx.app.watch import folder as watched
from fastvlm_mlx.app.watch.folder import FolderSource
from fastvlm_mlx.app.watch.lines import identity
from fastvlm_mlx.app.watch.shot import Shot
from fastvlm_mlx.errors import ImageError
from tests.support.watched import RED, put, scene


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watched, "POLL", 0.02)


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "inbox"
    place.mkdir()
    return place


def names(shots: Iterator[Shot], count: int) -> list[str]:
    return [os.path.basename(next(shots).name or "") for _ in range(count)]


def shots_of(source: FolderSource, looks: int = 10) -> tuple[Iterator[Shot], object]:
    """The shots; the iterator ends after so many looks without one."""
    stop = threading.Event()
    left = [looks]

    def wait(seconds: float) -> bool:
        left[0] -= 1
        if left[0] <= 0:
            stop.set()
        return stop.is_set()

    waiting = threading.Event()
    waiting.wait = wait  # pyright: ignore
    waiting.is_set = stop.is_set  # pyright: ignore
    return source.shots(waiting), left


def test_what_is_there_is_left_out_unless_asked_for(place):
    put(place, 1, scene("circle", RED), second=1)
    source = FolderSource(place)
    source.open()
    shots, _ = shots_of(source)
    put(place, 2, scene("circle", RED), second=2)
    assert [os.path.basename(shot.name or "") for shot in shots] == ["002.png"]
    source = FolderSource(place, from_start=True)
    source.open()
    shots, _ = shots_of(source)
    found = list(shots)
    assert [os.path.basename(shot.name or "") for shot in found] == [
        "001.png",
        "002.png",
    ]
    assert found[1].modified == 1_700_000_002
    assert found[0].image().getpixel((128, 128)) == RED


def test_in_the_order_of_writing_and_only_images(place):
    for number, second in ((1, 30), (2, 10), (3, 20)):
        put(place, number, scene("circle", RED), second=second)
    (place / "notes.txt").write_text("x")
    (place / ".hidden.png").write_bytes(b"x")
    (place / "empty.png").touch()
    (place / "folder.png").mkdir()
    source = FolderSource(place, from_start=True)
    source.open()
    shots, _ = shots_of(source)
    assert names(shots, 3) == ["002.png", "003.png", "001.png"]
    assert list(shots) == []


def test_a_file_that_is_written_anew_is_looked_at_again(place):
    path = put(place, 1, scene("circle", RED), second=1)
    source = FolderSource(place, from_start=True)
    source.open()
    shots, left = shots_of(source)
    assert names(shots, 1) == ["001.png"]
    put(place, 1, scene("square", RED), second=2)
    shot = next(shots)
    assert (shot.name, shot.modified) == (str(path), 1_700_000_002)
    assert list(shots) == []


def test_a_file_counts_once_it_rests(place):
    source = FolderSource(place)
    source.open()
    path = place / "slow.png"
    looks = 0
    real = source._look

    def look():
        nonlocal looks
        looks += 1
        if looks <= 5:  # it grows from look to look
            with path.open("ab") as file:
                file.write(bytes(100))
        return real()

    source._look = look  # pyright: ignore
    shots, _ = shots_of(source, looks=20)
    assert next(shots).name == str(path)
    assert looks == 6


def test_an_image_file_is_watched_too(tmp_path):
    put(tmp_path, 1, scene("circle", RED), second=1)
    latest = tmp_path / "001.png"
    source = FolderSource(latest)
    source.open()
    shots, _ = shots_of(source)
    assert next(shots).name == str(latest)
    put(tmp_path, 1, scene("square", RED), second=9)
    assert next(shots).modified == 1_700_000_009
    assert list(shots) == []


def test_what_an_earlier_run_did_is_left_out(place):
    paths = [put(place, n, scene("circle", RED), second=n) for n in (1, 2, 3)]
    source = FolderSource(place, from_start=True)
    source.open()
    source.done = {
        identity(str(path), 1_700_000_000.0 + n)
        for n, path in enumerate(paths[:2], start=1)
    }
    shots, _ = shots_of(source)
    assert [shot.name for shot in shots] == [str(paths[2])]


def test_a_file_that_is_no_image_says_so(place):
    (place / "bad.png").write_bytes(b"words")
    source = FolderSource(place, from_start=True)
    source.open()
    shots, _ = shots_of(source)
    shot = next(shots)
    with pytest.raises(ImageError, match="bad.png: not an image"):
        shot.thumbnail()


def test_a_disk_that_goes_away_may_come_back(place, tmp_path):
    put(place, 1, scene("circle", RED), second=1)
    source = FolderSource(place, from_start=True)
    source.open()
    shots, _ = shots_of(source, looks=30)
    assert names(shots, 1) == ["001.png"]
    place.rename(tmp_path / "away")
    put(tmp_path / "away", 2, scene("square", RED), second=2)
    real, looks = source._look, 0

    def look():
        nonlocal looks
        looks += 1
        if looks == 4:
            (tmp_path / "away").rename(place)
        return real()

    source._look = look  # pyright: ignore
    assert names(shots, 1) == ["002.png"] and looks >= 4
    assert list(shots) == []


def test_the_baseline_of_a_file_that_is_gone(place):
    assert watched.baseline(str(place / "none.png")) is None
    Image.new("RGB", (9, 9)).save(place / "a.png")
    assert watched.baseline(str(place / "a.png")) is not None
