"""Downloads, with the real huggingface_hub against a stand-in server."""

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.hub.download import LICENCE_NOTE, hub_answers
from fastvlm_mlx.hub.locate import is_cached, locate
from tests.support.hub_server import WEIGHTS, Hub, Repository
from tests.support.paths import ROOT

APPLE = "apple/FastVLM-0.5B"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "llava_qwen.py": b"print('never fetched')",
    "LICENSE": b"research only",
    "fastvithd.mlpackage/Data/weights/weight.bin": b"weights",
    "fastvithd.mlpackage/Manifest.json": b"[]",
}
READ = sorted(
    name for name in FILES if name not in ("pytorch_model.bin", "llava_qwen.py")
)


@pytest.fixture
def server() -> Iterator[Hub]:
    plain = {"config.json": b"{}", "pytorch_model.bin": b"pickle", "model.onnx": b"x"}
    newer = Repository({**FILES, "config.json": b'{"new": 1}'}, ("next", "refs/pr/1"))
    with Hub(
        {APPLE: [Repository(FILES), newer], "them/old": [Repository(plain)]}
    ) as it:
        yield it


def command(code: str, *args: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *args]


LOCATE = """
    import sys
    from fastvlm_mlx.hub.locate import locate
    print(locate(sys.argv[1]))
    """


def start(*args: str, **options: Any) -> subprocess.Popen[str]:
    """A process of its own that calls `locate`."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command(LOCATE, *args), env=env, text=True, **options)


def failure(name: str) -> str:
    with pytest.raises(DownloadError) as caught:
        locate(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tree(folder: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in found)


def test_download_then_no_network(home: Path, server: Hub):
    assert not is_cached("0.5b")
    process = start("0.5b")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    folder = Path(out.strip())
    assert folder.is_relative_to(home / "hf") and tree(folder) == READ
    data = (folder / "model.safetensors").read_bytes()
    assert data == FILES["model.safetensors"]
    assert err == LICENCE_NOTE + "\n"  # no progress bars in a pipe
    assert (server.fetched()[-1], sorted(server.fetched())) == ("config.json", READ)

    # Everything is cached: the same answer, at once and without a request.
    assert is_cached("0.5b") and is_cached(APPLE)
    server.requests.clear()
    assert locate("0.5b") == folder and locate("0.5B") == folder
    assert locate(f"https://huggingface.co/{APPLE}") == folder
    assert server.requests == []


def test_revisions_and_refresh(home: Path, server: Hub, capsys):
    first = locate("0.5b")
    assert capsys.readouterr().err == LICENCE_NOTE + "\n"
    second = locate("0.5b@next")
    assert capsys.readouterr().err == ""  # the licence was noted before
    assert (second / "config.json").read_bytes() == b'{"new": 1}'
    assert first != second and locate(f"{APPLE}@{second.name}") == second
    assert locate(f"{APPLE}@refs/pr/1") == second
    missing = f"{APPLE}@none: has no revision none; leave out @ for the newest"
    assert failure("0.5b@none") == missing

    server.repositories[APPLE] = [Repository({**FILES, "LICENSE": b"changed"})]
    assert locate("0.5b") == first
    server.requests.clear()
    third = locate("0.5b", refresh=True)
    assert (third / "LICENSE").read_bytes() == b"changed"
    assert server.fetched() == ["LICENSE"]
    assert locate("0.5b") == third

    server.refuse[APPLE] = (500, "")
    told: list[str] = []
    assert locate("0.5b", refresh=True, notify=told.append) == third
    why = f"{server.url} fails with 500; try again later"
    assert told == [f"{APPLE}: {why}; using the cached copy"]
    assert capsys.readouterr().err == ""


def test_pickles_only_where_nothing_else_is(home: Path):
    told: list[str] = []
    folder = locate("them/old", notify=told.append)
    assert tree(folder) == ["config.json", "pytorch_model.bin"]
    assert told == []  # not Apple's, no note
    assert is_cached("them/old")


def test_progress_bars_on_a_terminal(home: Path):
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    process = start("0.5b", stderr=side)
    os.close(side)
    shown = b""
    try:
        while chunk := os.read(main, 4096):
            shown += chunk
    except OSError:  # Linux says EIO at the end
        pass
    os.close(main)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"model.safetensors: 100%" in shown, shown


def test_a_cut_connection_resumes(home: Path, server: Hub, capsys):
    # The library keeps what arrived in whole pieces of 10 MiB, then waits a second.
    data = safetensors.numpy.save({"weight": np.arange(3_000_000, dtype=np.float32)})
    server.repositories[APPLE] = [Repository({**FILES, "model.safetensors": data})]
    server.cut["model.safetensors"] = 11_000_000
    folder = locate("0.5b")
    assert (folder / "model.safetensors").read_bytes() == data
    resumed = [r for r in server.requests if r.endswith(" bytes=10485760-")]
    assert len(resumed) == 1 and "model.safetensors" in resumed[0]
    assert capsys.readouterr().err == LICENCE_NOTE + "\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_is_not_taken_for_whole(
    home: Path, server: Hub, number: signal.Signals
):
    server.hold["model.safetensors"] = 100_000
    process = start("0.5b")
    assert server.holding.wait(30)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert time.monotonic() - began < 5  # Ctrl-C does not wait for the file
    assert process.returncode != 0
    server.hold.clear()
    server.released.set()

    assert not is_cached("0.5b")
    finished = [path for path in (home / "hf").rglob("*.safetensors")]
    assert finished == []
    server.requests.clear()
    assert tree(locate("0.5b")) == READ
    assert server.fetched() == ["model.safetensors", "config.json"]  # the rest is kept


def test_offline(home: Path, server: Hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = (
        f"{APPLE}: not in the cache, and HF_HUB_OFFLINE is set; "
        "unset it, or pass --model demo"
    )
    assert failure("0.5b") == message
    assert server.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    whole = locate("0.5b", notify=print)
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert locate("0.5b") == locate("0.5b", refresh=True) == whole
    assert server.requests == []


def test_refusals(home: Path, server: Hub):
    at = server.url
    cases: list[tuple[str, int, str, str]] = [
        (
            "a/gated",
            401,
            "GatedRepo",
            f"is gated; request access at {at}/a/gated, then",
        ),
        ("a/closed", 403, "", f"is gated; request access at {at}/a/closed, then run"),
        ("a/moved", 404, "RepoNotFound", "neither a path nor a public repository of"),
        ("a/hidden", 401, "", f"neither a path nor a public repository of {at}; check"),
        ("a/token", 401, "InvalidToken", f"{at} refuses your token; run `hf auth"),
        ("a/broken", 500, "", f"{at} fails with 500; try again later"),
        ("a/busy", 429, "", f"{at} asks to slow down; try again in some minutes"),
    ]
    server.refuse = {name: (status, code) for name, status, code, _ in cases}
    for name, _, _, message in cases:
        assert failure(name).startswith(f"{name}: {message}")
    neither = "a/none: neither a path nor a public repository of"
    assert failure("a/none").startswith(neither)
    assert tree(home / "ours") == []


def test_nobody_answers(home: Path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert re.fullmatch(
        rf"{APPLE}: no answer from http://127.0.0.1:{port} \(\w+\); "
        "check the network, or pass --model demo",
        failure("0.5b"),
    )
    assert not hub_answers("apple/FastVLM-0.5B")


def test_not_a_hub(home: Path, server: Hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/login")
    assert failure("0.5b").startswith(f"{APPLE}: neither a path nor a public")


def test_no_room(home: Path, server: Hub):
    class Huge(bytes):
        def __len__(self) -> int:
            return 10**18

    files = {"config.json": b"{}", "model.safetensors": Huge(b"x")}
    server.repositories["a/huge"] = [Repository(files)]
    assert re.fullmatch(
        r"a/huge: needs 1000000000\.0 GB, .* has .* GB free; "
        "free some space or set HF_HOME to another disk",
        failure("a/huge"),
    )
    assert server.fetched() == []


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_cache_that_cannot_be_made(home: Path, server: Hub, monkeypatch, name: str):
    monkeypatch.setenv(name, str(home / ("x" * 300)))
    assert failure("0.5b") == (
        f"{APPLE}: its cache cannot be written; set {name} to a folder of yours"
    )
