"""What a name means, and which model is the default."""

import re
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.hub.download import hub_answers
from fastvlm_mlx.hub.locate import choose_default, is_cached, locate
from tests.support.hub_server import Hub, Repository, empty_machine
from tests.support.paths import ROOT

APPLE = "apple/FastVLM-0.5B"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """An empty machine without a hub."""
    empty_machine(monkeypatch, tmp_path, "http://127.0.0.1:9")
    return tmp_path


def test_names_that_mean_nothing(home: Path):
    accepted = "a folder, a file, a .zip, demo, 0.5b, 1.5b, 7b or owner/name of the hub"
    cases = {
        "0.5": f"no such model; did you mean 0.5b? Else pass {accepted}",
        "fastvlm-7b": "no such model; did you mean apple/FastVLM-7B? Else pass "
        + accepted,
        "qwerty": f"no such model; pass {accepted}",
        "a/b/c": f"no such model; pass {accepted}",
        "a/../b": f"no such model; pass {accepted}",
        "a/b@../../etc": f"no such model; pass {accepted}",
        "./model": "no such file or folder; check the path",
        "/none/model": "no such file or folder; check the path",
        "models/llava.zip": "no such file or folder; check the path",
        "~nobody-here/x": "no such file or folder; check the path",
        "https://example.com/llava.zip": "not a model; download it, then pass the file",
        "n" * 300: f"no such model; pass {accepted}",
    }
    for name, message in cases.items():
        with pytest.raises(
            CheckpointError, match=f"^{re.escape(f'{name}: {message}')}$"
        ):
            locate(name)
        assert not is_cached(name)
    with pytest.raises(CheckpointError, match=r"^\(empty\): no such model; pass"):
        locate("")


def test_paths_win(home: Path):
    (home / "apple" / "FastVLM-0.5B").mkdir(parents=True)
    (home / "a.zip").touch()
    assert locate(APPLE) == Path(APPLE)
    assert locate(home / "a.zip") == home / "a.zip"
    assert is_cached("a.zip")
    (home / "7b").mkdir()  # not a model, and not what 7b means
    assert not is_cached("7b")
    (home / "7b" / "config.json").touch()
    assert locate("7b") == Path("7b")


def test_demo(home: Path):
    (home / "demo").mkdir()
    folder = ROOT / "fastvlm_mlx" / "demo"
    if (folder / "config.json").is_file():
        assert locate("demo") == folder
    else:
        with pytest.raises(CheckpointError, match="^demo: missing from this install"):
            locate("demo")


@pytest.fixture
def server(monkeypatch) -> Iterator[Hub]:
    with Hub({APPLE: [Repository({"config.json": b"{}"})]}) as it:
        monkeypatch.setenv("HF_ENDPOINT", it.url)
        yield it


def test_choose_default(home: Path, server: Hub, monkeypatch):
    assert choose_default() == ("0.5b", "the hub answers")
    server.refuse[APPLE] = (503, "")
    assert choose_default() == (
        "demo",
        "the hub does not answer and 0.5b is not in the cache",
    )
    del server.refuse[APPLE]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert choose_default() == (
        "demo",
        "HF_HUB_OFFLINE is set and 0.5b is not in the cache",
    )
    done = home / "ours" / "converted" / "apple--FastVLM-0.5B@0123456789ab-v1"
    done.mkdir(parents=True)
    (done / "config.json").touch()
    assert choose_default() == ("0.5b", "in the cache")
    assert locate("0.5b") == done
    monkeypatch.setenv("FASTVLM_MODEL", "./mine")
    assert choose_default() == ("./mine", "named by FASTVLM_MODEL")


def test_a_silent_hub_costs_little(home: Path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        began = time.monotonic()
        assert not hub_answers("apple/FastVLM-0.5B", timeout=0.3)
        assert time.monotonic() - began < 1


def test_import_is_light():
    code = """
        import sys
        import fastvlm_mlx.hub.locate
        print([m for m in ("huggingface_hub", "mlx", "urllib.request", "requests")
               if m in sys.modules])
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n", done.stderr
