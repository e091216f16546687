"""The command line: help, convert and info, one-line errors, what it imports."""

import errno
import io
import json
import subprocess
import sys

import pytest

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.export import folder
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.hub import locate
from tests.support.impossible_options import IMPOSSIBLE
from tests.support.paths import ROOT

HEAVY = (
    *("mlx", "mlx_lm", "transformers", "coremltools", "numpy", "PIL"),
    *("rich", "pydantic", "huggingface_hub", "tokenizers", "importlib.metadata"),
)
# What a first answer has no use for.
NEEDLESS = (
    *("mlx_lm", "transformers", "coremltools", "rich", "pydantic", "huggingface_hub"),
    *("llguidance", "concurrent.futures", "urllib.request", "importlib.metadata"),
    *("fastvlm_mlx.convert", "fastvlm_mlx.app.chat.repl"),
)


def test_version_and_help(run):
    for option in ("--version", "-V"):
        assert run(option) == (0, f"fastvlm-mlx {__version__}\n", "")
    for arguments in ([], ["-h"], ["--help"]):
        shown = run(*arguments)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith("Usage: fastvlm-mlx [OPTIONS] COMMAND")
    for command in ("chat", "convert", "info"):
        assert run(command, "-h") == run(command, "--help")


@pytest.mark.parametrize("command", [[], ["chat"], ["convert"], ["info"], ["eval"]])
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


def test_a_first_answer_imports_nothing_needless():
    script = (
        "import atexit, sys\n"
        "from fastvlm_mlx.app.cli import main\n"
        f"needless = {NEEDLESS!r}\n"
        "atexit.register(lambda: print([m for m in needless if m in sys.modules],"
        " file=sys.stderr))\n"
        f"main(['chat', {str(ROOT / 'examples' / 'word.png')!r}, '-m', 'demo',"
        " '-p', 'What is in the image?', '--max-tokens', '3'])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip()
    assert shown.stderr == "[]\n"


@pytest.mark.parametrize("module", ["typer", "fastvlm_mlx.app.cli", "json"])
def test_ctrl_c_while_the_command_line_is_imported(module):
    script = (
        "import os, runpy, signal, sys\n"
        "class Presses:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Presses())\n"
        "runpy.run_module('fastvlm_mlx', run_name='__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", script, "-V"], capture_output=True)
    assert (shown.returncode, shown.stdout, shown.stderr) == (130, b"", b"")


def test_an_ignored_ctrl_c_stays_ignored():
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from fastvlm_mlx.__main__ import main\n"
        "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "main()"
    )
    shown = subprocess.run([sys.executable, "-c", script, "-V"], capture_output=True)
    assert (shown.returncode, shown.stderr) == (0, b"")


def test_the_entry_imports_next_to_nothing():
    script = (
        "import sys; import fastvlm_mlx.__main__\n"
        "print([m for m in ('typing', 'typer', 'json') if m in sys.modules])"
    )
    # -S: an editable installation imports much of it before anything else.
    command = [sys.executable, "-S", "-c", script]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (shown.stdout, shown.stderr) == ("[]\n", "")


CLOSED = "import os, sys; os.close({}); os.execv(sys.executable, sys.argv[1:])"


def closed(number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fastvlm-mlx` with standard input (0), output (1) or error (2) closed."""
    program = [sys.executable, "-m", "fastvlm_mlx", *arguments]
    command = [sys.executable, "-c", CLOSED.format(number), *program]
    return subprocess.run(command, capture_output=True, text=True)


def test_closed_streams(tiny):
    ask = ("chat", "-m", tiny, "-p", "Hi", "--max-tokens", "2")
    whole = [closed(0, *ask), closed(2, *ask)]
    assert [shown.returncode for shown in whole] == [0, 0]
    assert whole[0].stdout == whole[1].stdout != ""
    assert whole[0].stderr == whole[1].stderr == ""
    shown = closed(1, *ask)
    assert (shown.returncode, shown.stderr) == (
        1,
        "error: standard output is closed; open it, or send it to a file with > FILE\n",
    )
    shown = closed(0, "chat", "-m", tiny)
    assert shown.returncode == 2 and "standard input is empty" in shown.stderr
    shown = closed(2, "chat", "-m", "nowhere.zip", "-p", "Hi")
    assert (shown.returncode, shown.stdout) == (1, "")


@pytest.mark.parametrize("command", [["--help"], ["info", "demo", "--json"]])
def test_a_reader_that_left_before_the_end(command):
    program = [sys.executable, "-m", "fastvlm_mlx", *command]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout and child.stderr
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_keeps_every_character_on_any_stdout(encoding, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    monkeypatch.setattr(sys, "stdout", stdout)
    for value in ("bücher-猫.png", "\udcff.png", "plain"):
        text = terminal.json_text({"image": value})
        assert json.loads(text.encode(encoding)) == {"image": value}
    assert ("猫" in terminal.json_text("猫")) == (encoding == "utf-8")


def test_convert_and_info(run, reference, tmp_path):
    source, out = reference / "llava-mini-train", tmp_path / "out"
    shown = run("convert", source, out)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"{out}: llava layout, weights 1.0 MB -> ")
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


def test_refresh_asks_the_hub(run, coffee, tmp_path, monkeypatch):
    asked: list[bool] = []

    def asks(name: str, *, refresh: bool = False):
        asked.append(refresh)
        return find("demo")

    find = locate.locate
    monkeypatch.setattr(locate, "locate", asks)
    monkeypatch.setattr(folder, "locate", asks)
    short = ("-m", "demo", "-p", "Hi", "--max-tokens", "1")
    for command in (
        ("chat", coffee, *short),
        ("caption", coffee, *short),
        ("info", "demo"),
        ("convert", "demo", tmp_path / "out"),
    ):
        assert run(*command).code == 0 and not any(asked)
        again = ("--overwrite",) if "convert" in command else ()
        assert run(*command, "--refresh", *again).code == 0
        assert any(asked), command
        asked.clear()


def test_convert_reports_the_agreement(run, reference, tmp_path):
    options = ("--q-bits", "8", "--q-group-size", "32")
    shown = run("convert", reference / "llava-mini", tmp_path / "out", *options)
    assert (shown.code, shown.err) == (0, "")
    sizes, agreement = shown.out.splitlines()
    assert agreement.startswith("agreement with the unquantized model: ")
    assert "8 bits in groups of 32" in run("info", tmp_path / "out").out


@pytest.mark.parametrize("model", ["hf-mini", "mlx-community-mini-4bit"])
def test_info_counts_the_same_parameters_in_every_layout(run, reference, model):
    facts = json.loads(run("info", reference / model, "--json").out)
    assert facts["parameters"] == {
        "vision_tower": 95728,
        "projector": 12416,
        "language_model": 176704,
        "total": 284848,
    }


@pytest.mark.parametrize(("arguments", "code", "named"), IMPOSSIBLE)
def test_impossible_options_are_one_line(run, arguments, code, named):
    shown = run(*arguments)
    assert (shown.code, shown.out) == (code, ""), shown.err
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert named in shown.err


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
