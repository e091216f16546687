"""The commands in README.md and docs/*.md run as printed, or at least parse.

A page's commands run one after the other in one temporary folder, which holds copies
of `examples/`, a folder `photos` and the adapters `flags` and `receipts`. `0.5b` comes
from a stand-in hub that serves a small checkpoint. What runs for minutes, changes the
machine or needs a Mac is listed in `PARSED_ONLY` with its reason: those are parsed by
the program's own parser. Where the system can fork a process of one thread, all starts
but that of `serve` share one import of the program.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.adapters.files import write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from tests.support.doc_blocks import Block, blocks, programs
from tests.support.doc_commands import parse
from tests.support.hub_server import Hub, Repository
from tests.support.paths import EXAMPLES, REFERENCES, ROOT
from tests.support.pdf_files import numbered_page, pages_of
from tests.support.small_adapters import make_adapter
from tests.support.warm_program import warm_program

# A command's beginning, as a regular expression: why it is not run here.
PARSED_ONLY = {
    r"make ": "sets up an environment of its own",
    r"source ": "changes the shell that it runs in",
    r"pip install |uv tool install |uvx ": "installs from the network",
    r"fastvlm-mlx --install-completion": "changes the shell; tests/app does it",
    r"fastvlm-mlx bench": "half a minute; tests/app/bench runs it",
    r"fastvlm-mlx export (coreml|coreai|ios) ": "ten seconds; tests/convert does it",
    r"fastvlm-mlx verify ": "needs the package of such an export",
    r"fastvlm-mlx chat .*--encoder core(ml|ai)": "needs a Mac",
    r"fastvlm-mlx chat --(clipboard|screen)": "needs a Mac",
    r"fastvlm-mlx watch ": "does not end; tests/app/watch runs it",
    r"claude mcp add ": "changes the settings of another program",
    r"fastvlm-mlx mcp .*--http": "tests/app/mcp/test_run.py does it",
    r"python -m (benchmarks\.|training\.|tests\.support\.mutants)": "minutes to hours",
    r"python -m pytest ": "the tests are run already",
    r"fastvlm-mlx train |mlx.launch ": "minutes; tests/app/train runs it",
    r"fastvlm-mlx caption .*--preset tags": "the stand-in's words are no tags",
    r"fastvlm-mlx eval .* (textvqa|pope|drawn)\b": "needs a benchmark's data",
    r"python examples/train_flags": "minutes; tests/docs/test_train_flags.py does",
    r".* (SRC|FOLDER)\b": "names a checkpoint or a folder that the reader has",
}
BLOCKS = blocks()
SHELL = [block for block in BLOCKS if block.is_shell]
COMMANDS = [(str(block), command) for block in SHELL for command in block.commands]
# docs/api.md shows signatures; docs/server.md shows clients of a running server.
RUN = ("README.md", "docs/images.md", "docs/evaluation.md", "docs/probabilities.md")
PYTHON = [b for b in BLOCKS if b.language == "python" and b.page in RUN]
CLIENTS = [b for b in BLOCKS if b.language == "python" and b.page == "docs/server.md"]


def reason(command: str) -> str | None:
    """Why a command is only parsed; None if it runs."""
    found = (why for start, why in PARSED_ONLY.items() if re.match(start, command))
    return next(found, None)


@pytest.mark.parametrize(("where", "command"), COMMANDS)
def test_command_parses(where: str, command: str):
    for words in programs(command):
        parse(words)


@pytest.mark.parametrize(
    "command",
    [
        "fastvlm-mlx paint examples/number.png",
        "fastvlm-mlx chat --colour red",
        "make coffee",
        "pip install '.[gold]'",
        "python -m benchmarks.nothing",
        "python -m benchmarks.peers --nothing",
        "python -m pytest tests/test_nothing.py",
        "paint examples/number.png",
    ],
)
def test_a_wrong_command_does_not_parse(command: str):
    with pytest.raises((Exception, SystemExit)):
        for words in programs(command):
            parse(words)


@pytest.mark.parametrize("start", PARSED_ONLY)
def test_an_exception_is_still_needed(start: str):
    assert any(re.match(start, command) for _, command in COMMANDS)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub that has one small checkpoint as Apple's 0.5B model."""
    files = {
        path.relative_to(REFERENCES / "llava-mini").as_posix(): path.read_bytes()
        for path in (REFERENCES / "llava-mini").rglob("*")
        if path.is_file()
    }
    with Hub({"apple/FastVLM-0.5B": [Repository(files)]}) as hub:
        yield hub


@pytest.fixture(scope="module")
def environment(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Caches and a home of its own, and nothing but the stand-in hub."""
    home = tmp_path_factory.mktemp("home")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "XDG_", "FASTVLM_"))
        and not name.lower().endswith("_proxy")
    }
    scripts = Path(sys.executable).parent
    return kept | {
        "HOME": str(home),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "FASTVLM_CACHE": str(home / "cache"),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Its threads spin, which is slow beside other tests.
        "OPENBLAS_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def shell(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The environment in which a shell finds the program."""
    if sys.platform != "linux":  # elsewhere a library may have started threads
        yield environment
        return
    with warm_program(tmp_path_factory.mktemp("warm"), environment) as programs:
        yield environment | {"PATH": f"{programs}{os.pathsep}{environment['PATH']}"}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the demo model."""
    place = tmp_path_factory.mktemp("adapters") / "flags"
    write_adapter(place, make_adapter(load("demo"), AdapterSpec(rank=2), 0.01))
    return place


@pytest.fixture
def folder(tmp_path: Path, adapter: Path) -> Path:
    """Where the commands run."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    for name in ("flags", "receipts"):
        shutil.copytree(adapter, tmp_path / name)
    pages_of(tmp_path / "report.pdf", [numbered_page(number) for number in range(4)])
    (tmp_path / "photos" / "more").mkdir(parents=True)
    shutil.copy(EXAMPLES / "number.png", tmp_path / "photos")
    shutil.copy(EXAMPLES / "word.png", tmp_path / "photos" / "more")
    return tmp_path


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Runs a program, which must succeed without a traceback."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() or done.stderr.strip()


def serve(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Runs `serve` at a free port until it has answered, then interrupts it."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {command} --port 0"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
                line = server.stderr.readline()
                assert line, said
                said += line
            with urllib.request.urlopen(f"{found[0]}/health", timeout=20) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGINT)
            server.stderr.read()


@pytest.mark.parametrize("page", sorted({block.page for block in SHELL}))
def test_page_runs(
    page: str, folder: Path, environment: dict[str, str], shell: dict[str, str]
):
    for block in BLOCKS:
        if block.page != page:
            continue
        if block in PYTHON:
            run([sys.executable, "-W", "error", "-c", block.text], folder, environment)
        for command in block.commands if block.is_shell else ():
            if reason(command):
                continue
            if command.startswith("fastvlm-mlx serve"):
                serve(command, folder, environment)
            else:
                run(["sh", "-e", "-c", command], folder, shell)


@pytest.mark.parametrize("block", CLIENTS, ids=str)
def test_client_is_python(block: Block):
    compile(block.text, str(block), "exec")


def test_make_chat_is_the_first_example():
    """`make chat` and the README's first question are the same."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    first = next(c for _, c in COMMANDS if c.startswith("fastvlm-mlx chat"))
    assert first in makefile.replace("$(BIN)/", "")


def test_images_and_links_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
