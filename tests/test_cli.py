"""The command line: streams, exit codes, one-line errors, and what it imports."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app import cli, terminal
from fastvlm_mlx.errors import ImageError
from tests.impossible_options import IMPOSSIBLE

HEAVY = (
    *("mlx", "mlx_lm", "transformers", "coremltools", "numpy", "PIL"),
    *("rich", "pydantic", "huggingface_hub", "tokenizers"),
)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch, tmp_path_factory):
    """Calls the program with arguments and a piped standard input."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("FASTVLM_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("FASTVLM_MODEL", raising=False)

    def call(*arguments: object, stdin: bytes | str = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(SystemExit) as exit:
            cli.main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Result(exit.value.code, shown.out, shown.err)

    return call


@pytest.fixture
def chat(run, reference, shared):
    """Calls `chat` with a tiny model; its answers about coffee.png are known."""

    def call(*arguments: object, stdin: bytes | str = b"") -> Result:
        options = ("-m", reference / "llava-mini", "--max-tokens", "16")
        return run("chat", *options, *arguments, stdin=stdin)

    return call


@pytest.fixture
def answer(reference) -> str:
    """What the tiny model says about coffee.png, by the reference implementation."""
    import numpy as np

    with np.load(reference / "llava-mini" / "golden.npz") as golden:
        ids = golden["chat/coffee.png"].tolist()
    return Tokenizer.from_file(str(reference / "llava-mini/tokenizer.json")).decode(ids)


def test_version_and_help(run):
    assert run("--version") == Result(0, f"fastvlm-mlx {__version__}\n", "")
    for arguments in ([], ["-h"], ["--help"]):
        shown = run(*arguments)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith("Usage: fastvlm-mlx [OPTIONS] COMMAND")
    for command in ("chat", "convert", "info"):
        assert run(command, "-h") == run(command, "--help")


@pytest.mark.parametrize("command", [[], ["chat"], ["convert"], ["info"]])
def test_help_imports_nothing_heavy(command):
    script = (
        "import atexit, sys\n"
        "from fastvlm_mlx.app.cli import main\n"
        f"heavy = {HEAVY!r}\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules],"
        " file=sys.stderr))\n"
        f"main({[*command, '--help']!r})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("Usage: ")
    assert shown.stderr == "[]\n"


def test_an_answer_about_a_picture(chat, coffee, answer):
    assert chat(coffee, "-p", "Describe the image.") == Result(0, answer + "\n", "")


def test_the_pipe_is_the_question(chat, coffee, answer):
    shown = chat(coffee, stdin="Describe the image.\n")
    assert shown == Result(0, answer + "\n", "")


def test_the_pipe_is_the_picture(chat, coffee, answer):
    shown = chat("-", "-p", "Describe the image.", stdin=coffee.read_bytes())
    assert shown == Result(0, answer + "\n", "")


def test_a_question_without_pictures(chat):
    shown = chat("-p", "Say something.")
    assert (shown.code, shown.err) == (0, "") and shown.out.strip()


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
    assert said["generated_tokens"] == 16
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


def test_picture_options_arrive(chat, coffee):
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


def test_the_default_model_is_announced(run, reference, coffee, monkeypatch):
    model = str(reference / "llava-mini")
    monkeypatch.setenv("FASTVLM_MODEL", model)
    shown = run("chat", coffee, "-p", "Hi", "--max-tokens", "2")
    assert shown.code == 0
    assert shown.err == f"model: {model} (named by FASTVLM_MODEL)\n"


def test_convert_and_info(run, reference, tmp_path):
    source, out = reference / "llava-mini-train", tmp_path / "out"
    shown = run("convert", source, out)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"{out}: llava layout, weights 1.8 MB -> ")
    facts = [json.loads(run("info", m, "--json").out) for m in (source, out)]
    assert [fact["converted"] for fact in facts] == [False, True]
    for fact in facts:
        assert fact["layout"] == "llava"
        assert fact["vision"]["depths"] == [1, 2, 2, 1, 1]
        assert fact["visual_tokens"]["1024"] == 256
        assert fact["parameters"]["total"] == facts[0]["parameters"]["total"]
    table = run("info", out)
    assert (table.code, table.err) == (0, "")
    assert "16 at 256, 64 at 512, 144 at 768" in table.out
    again = run("convert", source, out)
    assert (again.code, again.out) == (1, "") and "--overwrite" in again.err
    assert run("convert", source, out, "--overwrite").code == 0


def test_convert_reports_the_agreement(run, reference, tmp_path):
    options = ("--q-bits", "8", "--q-group-size", "32")
    shown = run("convert", reference / "llava-mini", tmp_path / "out", *options)
    assert (shown.code, shown.err) == (0, "")
    sizes, agreement = shown.out.splitlines()
    assert agreement.startswith("agreement with the unquantised model: ")
    assert "8 bits in groups of 32" in run("info", tmp_path / "out").out


@pytest.mark.parametrize("model", ["hf-mini", "mlx-community-mini-4bit"])
def test_info_counts_the_same_parameters_in_every_layout(run, reference, model):
    facts = json.loads(run("info", reference / model, "--json").out)
    assert facts["parameters"] == {
        "vision_tower": 339840,
        "projector": 20608,
        "language_model": 201280,
        "total": 561728,
    }


@pytest.mark.parametrize(("arguments", "code", "named"), IMPOSSIBLE)
def test_impossible_options_are_one_line(run, arguments, code, named):
    shown = run(*arguments)
    assert (shown.code, shown.out) == (code, ""), shown.err
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert named in shown.err


def test_a_pipe_that_is_no_text(run):
    shown = run("chat", stdin=b"\x89PNG\r\n\x1a\n")
    assert shown.code == 2 and "use '-' and -p PROMPT" in shown.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImageError("x.png: no\nsuch file"), "x.png: no such file"),
        (MemoryError(), "out of memory; close other programs"),
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), "out of memory; close"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: no space left"),
        (PermissionError(13, "Permission denied", "/x"), "/x: permission denied"),
        (ImportError("no libmlx", name="mlx"), "cannot import mlx: no libmlx;"),
        (KeyError("k"), "unexpected KeyError: 'k' (FASTVLM_DEBUG=1 shows"),
    ],
)
def test_every_error_is_one_line(capsys, error, line):
    assert terminal.report(error) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {line}") and shown.count("\n") == 1


def test_the_traceback_on_request(run, monkeypatch):
    monkeypatch.setenv("FASTVLM_DEBUG", "1")
    shown = run("info", "/nowhere/x")
    assert shown.err.startswith("Traceback")
    assert shown.err.splitlines()[-1].startswith("error: /nowhere/x")


def test_a_terminal_is_not_driven_by_an_answer(monkeypatch):
    text = "a\x1b[31mb\x07\n\tc\x9bé"
    assert terminal.printable(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert terminal.printable(text) == "a[31mb\n\tcé"


def program(tmp_path: Path, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fastvlm_mlx", *map(str, arguments)],
        env={**os.environ, "FASTVLM_CACHE": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def endless(reference, coffee):
    """Arguments of an answer that takes its time."""
    model = reference / "llava-mini"
    return ("chat", coffee, "-p", "Hi", "-m", model, "--max-tokens", 8000)


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
