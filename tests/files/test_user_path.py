"""expand_user, and every place that takes a `~`: an unknown user is no traceback."""

import os
import pwd
from pathlib import Path

import pytest

from fastvlm_mlx.app.bench import run as bench
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.conversation import transcript
from fastvlm_mlx.errors import DownloadError, FastVLMError, OptionError
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.cache_dir import cache_dir, hub_cache_dir, is_homeless
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.generation.json_schema import read_schema
from fastvlm_mlx.model_folder import converted, is_converted

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


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch):
    """As in a container that runs as a number: no HOME, and no entry of the user."""

    def unknown(uid: int):
        raise KeyError(uid)

    for name in [n for n in os.environ if n.startswith(("HF_", "HUGGING", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("FASTVLM_CACHE", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert os.path.expanduser("~") == "~"


def test_an_account_without_a_home(tmp_path: Path, homeless):
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(OptionError, match="out: holds a, which is not part of"):
        with staged_folder(tmp_path / "out", overwrite=True):
            pass


def test_the_cache_of_an_account_without_a_home(tmp_path: Path, monkeypatch, homeless):
    """It is no folder called `~` in the working folder."""
    assert cache_dir() == Path("/nonexistent/.cache/fastvlm-mlx")
    assert hub_cache_dir() == Path("/nonexistent/.cache/huggingface/hub")
    assert is_homeless(cache_dir()) and is_homeless(hub_cache_dir())
    monkeypatch.setenv("FASTVLM_CACHE", "~")
    assert cache_dir() == Path("/nonexistent")
    for chosen, place in ((tmp_path, tmp_path), ("~a/~", Path.cwd() / "~a/~")):
        monkeypatch.setenv("FASTVLM_CACHE", str(chosen))
        monkeypatch.setenv("HF_HUB_CACHE", str(chosen))
        assert cache_dir() == hub_cache_dir() == place
        assert not is_homeless(place)


def test_models_of_an_account_without_a_home(
    reference: Path, tmp_path: Path, monkeypatch, homeless
):
    monkeypatch.chdir(tmp_path)
    assert is_converted(converted("demo"))  # needs no cache
    for name in (str(reference / "hf-mini"), "owner/name"):
        with pytest.raises(OptionError) as caught:
            converted(name)
        assert str(caught.value) == (
            f"{name}: its conversion cannot be kept in /nonexistent/.cache/fastvlm-mlx"
            " (this user has no home folder); set FASTVLM_CACHE to a folder with room"
            " that can be written"
        )
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "ours"))
    with pytest.raises(DownloadError) as caught:
        converted("owner/name")
    assert str(caught.value) == (
        "/nonexistent/.cache/huggingface/hub: downloads cannot be kept there, as this"
        " user has no home folder; set HF_HOME to a folder with room that can be"
        " written"
    )
    assert is_converted(converted(reference / "hf-mini"))
    assert os.listdir(tmp_path) == ["ours"]
