"""expand_user, and every place that takes a `~`: an unknown user is no traceback."""

import os
import pwd
from pathlib import Path

import pytest

from fastvlm_mlx.app.bench import run as bench
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.conversation import transcript
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.generation.json_schema import read_schema

UNKNOWN = "~nobody-here/a"


def test_a_home_is_put_in(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_user("~/a") == expand_user(Path("~/a")) == Path("/home/me/a")
    assert expand_user("a~/~") == Path("a~/~")


def test_a_user_that_there_is_none_of(monkeypatch):
    assert expand_user(UNKNOWN) == Path(UNKNOWN)
    monkeypatch.setenv("FASTVLM_CACHE", "~nobody-here")
    assert cache_dir() == Path.cwd() / "~nobody-here"
    for read in (
        read_schema,
        lambda path: bench.read(Path(path)),
        lambda path: transcript.read(path, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(FastVLMError) as caught:
            read(UNKNOWN)
        message = str(caught.value).lower()
        assert message.startswith(f"{UNKNOWN}: ")
        assert "no such file" in message
        assert "; " in message
    with pytest.raises(OptionError, match=f"--encoder {UNKNOWN}: use auto"):
        packages.check(UNKNOWN, None)


def test_an_account_without_a_home(tmp_path: Path, monkeypatch):
    """As in a container that runs as a number: no HOME, and no entry of the user."""

    def unknown(uid: int):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert os.path.expanduser("~") == "~"
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(OptionError, match="out: holds a, which is not part of"):
        with staged_folder(tmp_path / "out", overwrite=True):
            pass
