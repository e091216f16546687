"""The screen of a Mac, with a stand-in for `screencapture`."""

from pathlib import Path

import pytest

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import screen


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script in place of the program, on a pretended Mac."""
    path = tmp_path / "screencapture"
    monkeypatch.setattr(screen.sys, "platform", "darwin")
    monkeypatch.setattr(screen, "_PROGRAM", str(path))

    return path


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_it_is_for_macs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(screen.sys, "platform", "linux")
    assert not screen.is_available()
    with pytest.raises(
        ImageError, match="^screen: can only be captured on a Mac; give"
    ):
        screen.capture()


def test_the_file_that_the_program_writes_is_read(program: Path):
    assert screen.is_available()
    write(program, 'echo "$@" > "$5"')
    assert screen.capture().startswith(b"-x -m -t png /")


def test_a_refusal_says_what_to_allow(program: Path):
    write(program, "echo could not create image from display >&2; exit 1")
    with pytest.raises(ImageError) as error:
        screen.capture()
    assert str(error.value) == (
        "screen: cannot be captured (could not create image from display); allow it in"
        " System Settings, Privacy & Security, Screen Recording"
    )
    write(program, "exit 0")
    with pytest.raises(ImageError, match=r"cannot be captured \(no image\)"):
        screen.capture()


def test_a_program_that_is_missing_or_hangs(
    program: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ImageError, match="^screen: .*No such file.*; try again"):
        screen.capture()
    monkeypatch.setattr(screen, "_SECONDS", 0.1)
    write(program, "exec sleep 5")
    with pytest.raises(ImageError, match="^screen: .*timed out.*; try again"):
        screen.capture()
