"""What the tests of `watch` share: a stand-in model, a video, a script beside it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.app import session
from tests.support.small_videos import stills, write_video
from tests.support.watched import SCRIPT, SECONDS, RedModel, scene


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
