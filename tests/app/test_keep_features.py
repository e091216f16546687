"""`--keep-features` of the commands: a second run encodes nothing again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.model.kept_features import kept_features_folder
from fastvlm_mlx.model.vlm import FastVLMModel


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the number of images at each call of the encoder."""
    calls: list[int] = []
    encode = FastVLMModel.encode_features

    def counted(self: FastVLMModel, pixels: Any) -> Any:
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(FastVLMModel, "encode_features", counted)
    return calls


@pytest.fixture(autouse=True)
def empty(run: Callable[..., Any]) -> None:  # which chooses the folder
    shutil.rmtree(kept_features_folder(), ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for name in ("coffee.png", "chart.png"):
        source = images / name
        shutil.copy(source if source.exists() else images / "coffee.png", place / name)
    return place


def test_caption_with_another_question_encodes_nothing(
    run: Callable[..., Any], tiny: str, folder: Path, encoded: list[int]
):
    def caption(question: str, *more: str) -> list[str]:
        words = ("caption", folder, "-m", tiny, "-p", question, "--max-tokens", 4)
        shown = run(*words, *more)
        assert shown.code == 0, shown.err
        return [json.loads(line)["caption"] for line in shown.out.splitlines()]

    plain = caption("What?")
    first = len(encoded)
    assert first and caption("What?", "--keep-features") == plain
    assert 0 < len(encoded) - first <= 2  # one of two images that are equal
    before = len(encoded)
    assert caption("What?", "--keep-features") == plain
    caption("And where?", "--keep-features", "2GB")
    assert len(encoded) == before


def test_chat_and_eval_find_what_caption_kept(
    run: Callable[..., Any],
    tiny: str,
    coffee: Path,
    tmp_path: Path,
    encoded: list[int],
):
    keep = ("-m", tiny, "--max-tokens", 3, "--keep-features")
    assert run("caption", coffee, *keep).code == 0
    before = len(encoded)
    plain = run("chat", coffee, "-m", tiny, "--max-tokens", 3, "-p", "Hm?")
    assert len(encoded) == before + 1
    assert run("chat", *keep, coffee, "-p", "Hm?").out == plain.out
    data = tmp_path / "data.jsonl"
    row = {"image": str(coffee), "question": "What?", "answer": "x"}
    data.write_text(json.dumps(row))
    shown = run("eval", tiny, data, "--max-tokens", 3, "--keep-features", "--json")
    assert shown.code == 0, shown.err
    assert len(encoded) == before + 1


def test_a_restarted_server_encodes_nothing_again(
    tiny: str, coffee: Path, encoded: list[int]
):
    pytest.importorskip("starlette")
    from fastvlm_mlx.app.server.engine.load import load_engine
    from fastvlm_mlx.app.server.engine.request import GenerationRequest, Message
    from fastvlm_mlx.app.server.http.limits import Limits

    def restarted(question: str) -> int:
        """Calls of the encoder for one request to a new server."""
        import threading

        engine = load_engine(tiny, Limits(), keep_features=10**8)
        before = len(encoded)
        message = Message("user", question, (coffee.read_bytes(),))
        request = GenerationRequest((message,), sampling={"max_tokens": 3})
        assert list(engine.stream(request, threading.Event()))
        return len(encoded) - before

    assert [restarted("What?"), restarted("What?"), restarted("Where?")] == [1, 0, 0]
    kept = list(kept_features_folder().rglob("*.safetensors"))
    assert len(kept) == 1  # not the image that warms the engine up


def test_an_unwritable_folder_is_one_warning(
    run: Callable[..., Any], tiny: str, folder: Path
):
    kept_features_folder().parent.mkdir(parents=True, exist_ok=True)
    kept_features_folder().write_text("in the way")
    try:
        shown = run("caption", folder, "-m", tiny, "--max-tokens", 3, "--keep-features")
        assert shown.code == 0 and len(shown.out.splitlines()) == 2
        warnings = [line for line in shown.err.splitlines() if "not kept" in line]
        assert len(warnings) == 1
        assert warnings[0].startswith("features of images are not kept: ")
    finally:
        kept_features_folder().unlink()


@pytest.mark.parametrize("size", ["0", "5", "100kB", "x", "-3GB", "1GB2"])
def test_sizes_that_are_none(run: Callable[..., Any], coffee: Path, size: str):
    shown = run("chat", coffee, "-p", "x", f"--keep-features={size}")
    assert shown.code == 1
    assert shown.err == (
        f"error: --keep-features '{size}': give 1MB or more, such as 2GB\n"
    )


def test_a_server_keeps_its_own_features(run: Callable[..., Any], tmp_path: Path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "What?", "answer": "x"}')
    shown = run("eval", "m", data, "--url", "http://localhost:1/v1", "--keep-features")
    assert shown.code == 2
    assert "--keep-features with --url: the server chooses that" in shown.err


def test_info_says_where_they_lie(run: Callable[..., Any], tiny: str, coffee: Path):
    place = kept_features_folder()
    assert f"features   none kept in {place}\n" in run("info", tiny).out
    run("chat", coffee, "-m", tiny, "-p", "x", "--max-tokens", 2, "--keep-features")
    shown = run("info", tiny).out
    assert "1 image kept, " in shown and f"in {place}; delete it to clear them" in shown
    kept = json.loads(run("info", tiny, "--json").out)["kept_features"]
    assert (kept["folder"], kept["images"]) == (str(place), 1) and kept["bytes"] >= 4096
