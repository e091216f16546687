"""`fastvlm-mlx mcp` as a process over stdio, and what it refuses to start with."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from PIL import Image

from fastvlm_mlx.app.mcp import run as module
from fastvlm_mlx.app.mcp.roots import Roots
from tests.support.mcp_tools import CountingWorker, text, usage, use

# Stray output in the middle of a call, as a library or a child might make it.
NOISY = """
import os, subprocess
from fastvlm_mlx.app.mcp import images
read = images.ImageReader.read
async def noisy(self, *arguments):
    print("stray text")
    os.write(1, b"stray bytes\\n")
    subprocess.run(["echo", "stray child"])
    return await read(self, *arguments)
images.ImageReader.read = noisy
"""
MAIN = "from fastvlm_mlx.app.cli import main\nmain({})"


def command(*arguments: object, before: str = "") -> list[str]:
    words = ["mcp", *map(str, arguments)]
    return [sys.executable, "-c", before + MAIN.format(words)]


def over_stdio(
    words: list[str], work: Callable[[Client], Awaitable[Any]], cwd: Path | None = None
) -> Any:
    async def connected() -> Any:
        server = StdioServerParameters(
            command=words[0], args=words[1:], cwd=cwd, env=dict(os.environ)
        )
        async with Client(stdio_client(server)) as client:
            return await work(client)

    return asyncio.run(connected())


def test_answers_over_stdio_are_those_of_chat(
    tiny: str, root: Path, run: Any, isolated_cache: Path
):
    questions = ("What is this?", "Which colour?", "How many?")

    async def ask(client: Client) -> Any:
        return [
            await client.call_tool(
                "ask_image", {"image": "coffee.png", "question": each, "max_tokens": 8}
            )
            for each in questions
        ]

    # The default root is the working folder.
    answers = over_stdio(command("-m", Path(tiny).resolve()), ask, cwd=root)
    for question, answer in zip(questions, answers, strict=True):
        shown = run(
            *("chat", root / "coffee.png", "-m", tiny),
            *("-p", question, "--max-tokens", 8),
        )
        assert shown.code == 0 and shown.out == f"{text(answer)}\n"
    assert usage(answers[0])["cached_tokens"] == 0 < usage(answers[1])["cached_tokens"]


@pytest.mark.slow
def test_a_hundred_answers_are_those_of_chat(tmp_path: Path, run: Any):
    """20 images of random shapes, five questions each, with the demo model."""
    from tests.support.mock_model import make_image

    questions = ("What?", "Where is the heart?", "Read it.", "Colours?", "Describe it.")
    for number in range(20):
        size = (40 + 7 * number, 90 - 3 * number)
        make_image(number, size).save(tmp_path / f"{number}.png")

    async def ask(client: Client) -> Any:
        return [
            await client.call_tool(
                "ask_image", {"image": f"{n}.png", "question": each, "max_tokens": 24}
            )
            for n in range(20)
            for each in questions
        ]

    answers = over_stdio(command("-m", "demo", "--root", tmp_path), ask)
    different = 0
    for at, answer in enumerate(answers):
        image = tmp_path / f"{at // 5}.png"
        shown = run(
            *("chat", image, "-m", "demo", "--max-tokens", 24),
            *("-p", questions[at % 5]),
        )
        different += shown.out != f"{text(answer)}\n"
    assert len(answers) == 100 and different == 0


def test_standard_output_holds_the_protocol_alone(tiny: str, root: Path):
    lines = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {
                "name": "describe_image",
                "arguments": {"image": "coffee.png", "max_tokens": 3},
            },
        },
    ]
    process = subprocess.Popen(
        command("-m", tiny, "--root", root, before=NOISY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stderr is not None
        for line in ["not json", *map(json.dumps, lines)]:
            process.stdin.write(f"{line}\n")
        process.stdin.flush()
        received = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        rest, said = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0 and rest == ""
    assert [one.get("id") for one in received] == [1, 2]
    assert received[1]["result"]["isError"] is False
    assert "stray text" in said and "stray bytes" in said and "stray child" in said
    assert "Traceback" not in said


def test_a_signal_ends_it_at_once(tiny: str, root: Path):
    process = subprocess.Popen(
        command("-m", tiny, "--root", root),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert process.stdout.readline()
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and time.monotonic() - begun < 2
        assert process.stderr is not None and process.stderr.read() == ""


def test_over_http_as_a_process(tiny: str, root: Path):
    process = subprocess.Popen(
        command("-m", tiny, "--root", root, "--http", "127.0.0.1:0"),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.fullmatch(
                r".*llava-mini is served to MCP clients at (http://127.0.0.1:\d+/mcp)"
                r" \(Ctrl-C stops\)\n",
                line,
            )
            assert found, line

            async def names() -> list[str]:
                async with Client(found[1]) as client:
                    return [tool.name for tool in (await client.list_tools()).tools]

            assert "ask_image" in asyncio.run(names())
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_mistakes_end_it_before_a_client_waits(
    run: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown = run("mcp", "-m", tiny, "--root", tmp_path / "nope")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == (
        f"error: --root {tmp_path}/nope: no such folder; give one that exists\n"
    )
    shown = run("mcp", "-m", tmp_path / "missing")
    assert shown.code == 1 and shown.err.startswith(
        f"error: {tmp_path}/missing: no such"
    )
    shown = run("mcp", "-m", tiny, "--token", "x")
    assert shown.code == 2 and "are for --http; stdio has no need" in shown.err
    shown = run("mcp", "-m", tiny, "--http", "0.0.0.0:0")
    assert shown.code == 1 and "clients need a token; set FASTVLM_TOKEN" in shown.err
    shown = run("mcp", "-m", tiny, "--http", "host:x")
    assert shown.code == 1 and "--http 'host:x': give HOST:PORT" in shown.err
    monkeypatch.chdir("/")
    shown = run("mcp", "-m", tiny)
    assert shown.code == 2 and shown.err == (
        "error: the working folder is /, all of this machine; give --root DIR with a"
        " folder of images\n"
    )


@pytest.mark.parametrize("name", ["mcp", "llguidance"])
def test_what_is_not_installed_is_named(
    run: Any, tiny: str, monkeypatch: pytest.MonkeyPatch, name: str
):
    there = module.importlib.util.find_spec

    def pretended(wanted: str, *more: Any) -> Any:
        return None if wanted == name else there(wanted, *more)

    monkeypatch.setattr(module.importlib.util, "find_spec", pretended)
    shown = run("mcp", "-m", tiny)
    assert shown.code == 1
    assert re.fullmatch(
        rf"error: {name}: not installed, and mcp needs it; .*install .*mcp.*\n",
        shown.err,
    )


def test_the_screen_is_captured_on_a_mac(
    tiny: str, root: Path, monkeypatch: pytest.MonkeyPatch, worker: CountingWorker
):
    from fastvlm_mlx.app.chat import capture

    monkeypatch.setattr(capture, "screen", lambda: Image.new("RGB", (30, 20), "red"))
    loaded: Future[None] = Future()
    loaded.set_result(None)

    def tools(platform: str, screen: bool) -> list[str]:
        async def names(client: Client) -> list[str]:
            return [tool.name for tool in (await client.list_tools()).tools]

        monkeypatch.setattr(module.sys, "platform", platform)
        options = module.Options(tiny, screen=screen)
        server = module._server(options, worker, Roots([root]), loaded, "tiny")
        return use(server, names)

    assert "look_at_screen" not in tools("linux", True) + tools("darwin", False)
    assert tools("darwin", True)[-1] == "look_at_screen"
    with Image.open(io.BytesIO(module._capture())) as image:
        assert (image.format, image.size) == ("PNG", (30, 20))
