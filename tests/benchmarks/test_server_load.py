"""`benchmarks.server_load`: what it asks, counts and compares."""

import argparse
import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from benchmarks import server_load  # noqa: E402
from tests.support.serving import running  # noqa: E402


@pytest.mark.parametrize("images", ["one", "each"])
def test_one_client_and_several(reference: Path, tmp_path: Path, images: str):
    options = argparse.Namespace(clients=3, tokens=5, rounds=1, images=images)
    with running(reference / "llava-mini") as server:
        found = server_load.measure(server.port, "tiny", options, tmp_path)
    assert found["ratio"] == found["many_tps"] / found["one_tps"] > 0
    assert 0 < found["one_ttft"] and 0 < found["longest_ttft"]
    assert len(found["texts"]) == 3 and all(found["texts"])
    assert len(list(tmp_path.iterdir())) == (1 if images == "one" else 5)


def test_an_error_of_the_server_is_told(reference: Path):
    body = {"model": "no", "messages": [{"role": "user", "content": "Hi"}]}
    with running(reference / "llava-mini") as server:
        with pytest.raises(RuntimeError, match=r"status 404: .*does not exist"):
            server_load.ask(server.port, body)


def test_the_table_compares():
    each = {"one_tps": 2.0, "many_tps": 9.0, "ratio": 4.5, "one_ttft": 0.5}
    ours = {**each, "longest_ttft": 1.25}
    theirs = {**ours, "many_tps": 3.0, "ratio": 1.5}
    text = server_load.table({"ours": ours, "mlx-vlm": theirs}, 8)
    assert "| ours | 2.00 | 9.00 | 4.50 | 0.50 | 1.25 |" in text
    assert text.endswith("ours / mlx-vlm: 1 client 1.00, 8 clients 3.00")
    failed = server_load.table({"ours": ours, "mlx-vlm": {"failed": "no room"}}, 8)
    assert "| mlx-vlm | no room |" in failed and "ours / mlx-vlm" not in failed


def test_a_server_that_ends_says_why():
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(RuntimeError, match="no such model"):
        with server_load.serving(command, "/health"):
            pass
