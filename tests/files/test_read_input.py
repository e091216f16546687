"""read_input: files, pipes with and without a writer, devices without an end."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from fastvlm_mlx.app.bench import run as bench
from fastvlm_mlx.conversation import transcript
from fastvlm_mlx.errors import FastVLMError, ImageError, OptionError
from fastvlm_mlx.files import read_input as module
from fastvlm_mlx.files.read_input import read_input
from fastvlm_mlx.generation import json_schema
from fastvlm_mlx.processing import image_source

ENDLESS = Path("/dev/zero")


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "WRITER", 0.2)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_and_its_limit(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_input(file, 5) == b"12345"
    assert read_input(file, 3) == b"1234"
    with pytest.raises(FileNotFoundError):
        read_input(tmp_path / "none", 3)
    with pytest.raises(IsADirectoryError):
        read_input(tmp_path, 3)


@pytest.mark.parametrize(("before", "within"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.5)])
def test_a_pipe_is_read_to_its_end(pipe: Path, monkeypatch, before, within):
    """The writer comes late, or is there and takes longer than one is waited for."""
    monkeypatch.setattr(module, "WRITER", 0.4)

    def write():
        time.sleep(before)
        with pipe.open("wb") as file:
            time.sleep(within)
            file.write(b"a" * 200_000)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.0 if before else 0.1)
    assert read_input(pipe, 1 << 20) == b"a" * 200_000
    writer.join()


def test_a_pipe_and_its_limit(pipe: Path):
    def write():
        with pipe.open("wb") as file:
            file.write(b"12345")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_input(pipe, 3) == b"1234"
    writer.join()


def test_nobody_writes(pipe: Path):
    with pytest.raises(ImageError, match="pipe: nobody writes to this pipe; "):
        image_source.read_path(pipe, str(pipe))
    with pytest.raises(OptionError, match="pipe: nobody writes to this pipe; give a"):
        json_schema.read_schema(pipe)
    with pytest.raises(OptionError, match="pipe: nobody writes to this pipe; "):
        bench.read(pipe)
    with pytest.raises(FastVLMError, match="nobody writes to this pipe.; check"):
        transcript.read(pipe, None)  # type: ignore[arg-type]


@pytest.mark.skipif(not ENDLESS.exists(), reason="no /dev/zero here")
def test_a_device_without_an_end(monkeypatch):
    for owner in (json_schema, bench, transcript):
        monkeypatch.setattr(owner, "_LARGEST", 1 << 20)
    monkeypatch.setattr(image_source, "MAX_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="more than 1 MB; save a smaller image"):
        image_source.read_path(ENDLESS, "zero")
    with pytest.raises(OptionError, match="/dev/zero: more than 1 MB; give a smaller"):
        json_schema.read_schema(ENDLESS)
    with pytest.raises(OptionError, match="/dev/zero: no report of"):
        bench.read(ENDLESS)
    with pytest.raises(FastVLMError, match="not a saved conversation .*more than 1 MB"):
        transcript.read(ENDLESS, None)  # type: ignore[arg-type]


def test_what_fits_is_read(tmp_path: Path, monkeypatch):
    for owner in (json_schema, bench):
        monkeypatch.setattr(owner, "_LARGEST", 64)
    schema, report = {"type": "string"}, {"format": bench.FORMAT}
    for value, read in ((schema, json_schema.read_schema), (report, bench.read)):
        file = tmp_path / "file.json"
        file.write_text(json.dumps(value).ljust(64))
        assert read(file) == value
