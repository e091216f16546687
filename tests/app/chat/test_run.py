"""`chat`: its answer, its streams, its options, and how it is broken off."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastvlm_mlx.app.chat import run as chat_run
from fastvlm_mlx.app.chat.stats import EMPTY_ANSWER


@pytest.fixture
def chat(run, tiny):
    """Calls `chat` with a tiny model; its answers about coffee.png are known."""

    def call(*arguments: object, stdin: bytes | str = b""):
        options = ("-m", tiny, "--max-tokens", "16")
        return run("chat", *options, *arguments, stdin=stdin)

    return call


@pytest.fixture
def answer(reference) -> str:
    """What the tiny model says about coffee.png, by the reference implementation."""
    import numpy as np

    with np.load(reference / "llava-mini" / "golden.npz") as golden:
        ids = golden["chat/coffee.png"].tolist()
    return Tokenizer.from_file(str(reference / "llava-mini/tokenizer.json")).decode(ids)


def test_an_answer_about_a_image(chat, coffee, answer):
    assert chat(coffee, "-p", "Describe the image.") == (0, answer + "\n", "")


def test_the_pipe_is_the_question(chat, coffee, answer):
    shown = chat(coffee, stdin="Describe the image.\n")
    assert shown == (0, answer + "\n", "")


def test_the_pipe_is_the_image(chat, coffee, answer):
    shown = chat("-", "-p", "Describe the image.", stdin=coffee.read_bytes())
    assert shown == (0, answer + "\n", "")


def test_a_question_without_images(chat):
    shown = chat("-p", "Say something.")
    assert (shown.code, shown.err) == (0, "") and shown.out.strip()


def test_a_forgotten_image_is_hinted_at(run, coffee, monkeypatch):
    options = ("chat", "-m", "demo", "-p", "Hello!", "--max-tokens", "16")
    shown = run(*options)
    assert shown.code == 0
    first, *rest = shown.err.splitlines()
    assert first == (
        "note: no image; the demo model knows nothing but images:"
        " fastvlm-mlx chat IMAGE -p PROMPT"
    )
    assert bool(rest) == (not shown.out.strip())
    monkeypatch.setattr(chat_run, "_something_is_piped", lambda: True)
    shown = run(*options)
    assert shown.err.startswith(
        "note: standard input is not read; name it as - if it is the image:"
        " fastvlm-mlx chat - -p PROMPT\n"
    )
    assert run(*options, coffee).err == ""


@pytest.mark.parametrize("form", ["pipe", "file", "empty pipe", "null device"])
def test_data_in_standard_input_is_noticed_and_left(form, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"data")
    if "pipe" in form:
        number, end = os.pipe()
        os.write(end, b"data" if form == "pipe" else b"")
        os.close(end)
    else:
        number = os.open(os.devnull if form == "null device" else file, os.O_RDONLY)
    with open(number, "rb") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        holds = form in ("pipe", "file")
        assert chat_run._something_is_piped() == holds
        assert stream.read() == (b"data" if holds else b"")


def test_an_empty_answer_is_said_to_be_one(chat, coffee, answer):
    shown = chat(coffee, "-p", "Describe the image.", "--stop", answer[0])
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == f"{EMPTY_ANSWER}\n"


def test_statistics_go_to_stderr(chat, coffee, answer):
    shown = chat(coffee, "-p", "Describe the image.", "--stats")
    assert (shown.code, shown.out) == (0, answer + "\n")
    first, prompt, speed, memory = shown.err.splitlines()
    stages = ("decode", "preprocess", "encode", "prefill", "first token")
    assert first.startswith("time to first token: ")
    assert all(f"{stage} " in first for stage in stages)
    assert prompt.startswith("prompt: 51 tokens, 16 of them visual")
    assert speed.startswith("answer: 16 tokens, ") and "per second" in speed
    assert memory.startswith("peak memory: ")


def test_json_is_one_object(chat, coffee, answer):
    shown = chat(coffee, "-p", "Describe the image.", "--json")
    assert (shown.code, shown.err, shown.out.count("\n")) == (0, "", 1)
    said = json.loads(shown.out)
    assert said["answer"] == answer and said["finish_reason"] == "length"
    assert said["images"] == [str(coffee)]
    assert said["prompt"] == "Describe the image."
    assert (said["prompt_tokens"], said["visual_tokens"]) == (51, 16)
    assert said["generation_tokens"] == 16
    assert 0 < said["ttft"] < 60 and said["timings"]["decode"] > 0
    assert said["peak_memory"] > 1e6


def test_sampling_options_arrive(chat, coffee, answer):
    question = (coffee, "-p", "Describe the image.", "--json")
    stop = answer.strip()[2:5]
    shown = json.loads(chat(*question, "--stop", stop).out)
    assert shown["answer"] == answer[: answer.index(stop)]
    assert shown["finish_reason"] == "stop"
    warm = ("--temperature", "5", "--seed", "7", "--top-k", "50", "--min-p", "0.001")
    drawn = [json.loads(chat(*question, *warm).out)["answer"] for _ in range(2)]
    assert drawn[0] == drawn[1] != answer
    penalty = ("--repetition-penalty", "1.8", "--top-p", "0.9")
    assert json.loads(chat(*question, *penalty).out)["answer"] != answer


def test_image_options_arrive(chat, coffee):
    question = (coffee, "-p", "Describe the image.", "--json")
    for options, tokens in (
        (("--resolution", "512"), 64),
        (("--tiles", "1x2"), 48),
        (("--fit", "crop", "--resolution", "128"), 4),
    ):
        assert json.loads(chat(*question, *options).out)["visual_tokens"] == tokens
    brief = json.loads(chat(*question).out)["prompt_tokens"]
    system = ("--system", "You are a very thorough and long-winded assistant.")
    assert json.loads(chat(*question, *system).out)["prompt_tokens"] > brief


def test_the_default_model_is_announced(run, tiny, coffee, monkeypatch):
    monkeypatch.setenv("FASTVLM_MODEL", tiny)
    shown = run("chat", coffee, "-p", "Hi", "--max-tokens", "2")
    assert shown.code == 0
    assert shown.err == f"model: {tiny} (named by FASTVLM_MODEL)\n"


def test_a_pipe_that_is_no_text(run):
    shown = run("chat", stdin=b"\x89PNG\r\n\x1a\n")
    assert shown.code == 2 and "use '-' and -p PROMPT" in shown.err


def program(tmp_path: Path, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fastvlm_mlx", *map(str, arguments)],
        env={**os.environ, "FASTVLM_CACHE": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def endless(tiny, coffee):
    """Arguments of an answer that takes its time."""
    return ("chat", coffee, "-p", "Hi", "-m", tiny, "--max-tokens", 8000)


def test_ctrl_c_ends_an_answer(endless, tmp_path):
    with program(tmp_path, *endless) as child:
        assert child.stdout and child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert rest.endswith(b"\n") and errors == b""


def test_a_reader_that_leaves(endless, tmp_path):
    with program(tmp_path, *endless) as child:
        assert child.stdout and child.stderr and child.stdout.read(1)
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1
