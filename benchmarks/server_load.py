"""Measures many clients of a server against one, beside mlx-vlm's server.

    python -m benchmarks.server_load                  # random weights, 0.5B, 8 clients
    python -m benchmarks.server_load --only ours ours-in-turn --images each

Every server runs alone, in a process of its own, with the same weights and gets the
same requests: streamed answers of so many tokens to different questions, about one
image that it has seen before (`--images one`), or about another image each
(`--images each`, where the encoder's time counts). First one client asks, then all at
once. Reported are the tokens a second of all clients together, how often as many as one
client gets, and the longest time to a first token. `ours-in-turn` is
`serve --batch 1`. On Linux mlx-vlm runs with the same BLAS as ours.

The last line of stdout is one JSON document.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import random_checkpoint
from benchmarks.peers import environments
from fastvlm_mlx.app import machine
from fastvlm_mlx.app.bench import stages
from fastvlm_mlx.app.terminal import note
from fastvlm_mlx.files.cache_dir import cache_dir

ROOT = Path(__file__).parents[1]
SERVERS = ("ours", "ours-in-turn", "mlx-vlm")
# Loading a model, and one answer on a busy machine.
_READY, _ANSWER = 600.0, 3600.0
_MLX_VLM = (
    "import runpy; from fastvlm_mlx.cpu import openblas; openblas.bind();"
    " runpy.run_module('mlx_vlm.server', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Answer:
    """A streamed answer: seconds to its first token and to its end, and its tokens."""

    ttft: float
    seconds: float
    tokens: int
    text: str


def ask(port: int, body: dict[str, Any]) -> Answer:
    """Sends one streamed chat request.

    Raises:
        RuntimeError: the server answers with an error.
    """
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER)
    headers = {"content-type": "application/json"}
    started = time.perf_counter()
    ttft, tokens, text = 0.0, 0, ""
    with closing(link):
        link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = link.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {answer.read(300)!r}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"{event['error']}")
            for choice in event.get("choices", ()):
                if piece := choice["delta"].get("content"):
                    ttft = ttft or time.perf_counter() - started
                    text += piece
            usage = event.get("usage") or {}
            tokens = (
                usage.get("completion_tokens") or usage.get("output_tokens") or tokens
            )
    return Answer(ttft, time.perf_counter() - started, tokens, text)


def bodies(model: str, images: list[Path], tokens: int) -> list[dict[str, Any]]:
    """A request about each image; the questions differ."""
    found: list[dict[str, Any]] = []
    for number, path in enumerate(images):
        data = base64.b64encode(path.read_bytes()).decode()
        url = {"url": f"data:image/jpeg;base64,{data}"}
        parts = [
            {"type": "image_url", "image_url": url},
            {"type": "text", "text": f"Question {number}: describe the image."},
        ]
        found.append(
            {
                "model": model,
                "messages": [{"role": "user", "content": parts}],
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
    return found


@contextmanager
def serving(command: list[str], path: str) -> Iterator[int]:
    """Runs a server until the block ends; its port once `path` is answered.

    Raises:
        RuntimeError: it ended, or is not ready in ten minutes.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, stdout=said, stderr=said
        )
        try:
            deadline = time.monotonic() + _READY
            while not _is_ready(port, path):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    words = said.read().strip().splitlines() or ["nothing was said"]
                    raise RuntimeError(words[-1])
                time.sleep(0.5)
            yield port
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_ready(port: int, path: str) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        with closing(link):
            link.request("GET", path)
            return link.getresponse().status == 200
    except OSError:
        return False


def command(name: str, model: Path, clients: int, python: str) -> list[str]:
    """The server's command line, without the port."""
    if name == "mlx-vlm":
        return [python, "-c", _MLX_VLM, "--host", "127.0.0.1", "--model", str(model)]
    batch = str(clients if name == "ours" else 1)
    start = [sys.executable, "-m", "fastvlm_mlx", "serve", "--model", str(model)]
    return [*start, "--batch", batch]


def measure(
    port: int, model: str, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """One client, then all at once; the medians of the rounds."""
    files = stages.variants(stages.example(), folder, "JPEG")
    shown = [next(files)] * options.clients
    warm = bodies(model, shown, 2)[0]
    ask(port, warm)
    alone: list[Answer] = []
    rates: list[float] = []
    ttfts: list[float] = []
    texts: list[str] = []
    for number in range(options.rounds):
        note(f"round {number + 1} of {options.rounds}")
        if options.images == "each":
            shown = [next(files) for _ in range(options.clients + 1)]
        requests = bodies(model, shown, options.tokens)
        alone.append(ask(port, requests[-1]))
        started = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as pool:
            # In order: they arrive one shortly after the other.
            asked = []
            for body in requests[: options.clients]:
                asked.append(pool.submit(ask, port, body))
                time.sleep(0.02)
            answers = [each.result() for each in asked]
        seconds = time.perf_counter() - started
        rates.append(sum(each.tokens for each in answers) / seconds)
        ttfts.append(max(each.ttft for each in answers))
        texts = [each.text for each in answers]
    one = statistics.median(each.tokens / each.seconds for each in alone)
    many = statistics.median(rates)
    return {
        "one_tps": one,
        "many_tps": many,
        "ratio": many / one,
        "one_ttft": statistics.median(each.ttft for each in alone),
        "longest_ttft": statistics.median(ttfts),
        "texts": texts,
    }


def table(found: dict[str, dict[str, Any]], clients: int) -> str:
    """The figures for people, and ours as a multiple of mlx-vlm's."""
    lines = [
        f"| server | 1 client, tokens/s | {clients} clients, tokens/s | ratio"
        " | TTFT of 1, s | longest TTFT, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        if "failed" in each:
            lines.append(f"| {name} | {each['failed'][:200]} | | | | |")
            continue
        keys = ("one_tps", "many_tps", "ratio", "one_ttft", "longest_ttft")
        lines.append(f"| {name} | {' | '.join(f'{each[key]:.2f}' for key in keys)} |")
    ours, theirs = found.get("ours", {}), found.get("mlx-vlm", {})
    if "many_tps" in ours and "many_tps" in theirs:
        one = ours["one_tps"] / theirs["one_tps"]
        many = ours["many_tps"] / theirs["many_tps"]
        lines += [
            "",
            f"ours / mlx-vlm: 1 client {one:.2f}, {clients} clients {many:.2f}",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server_load",
        description=(__doc__ or "").split("\n")[0],
        epilog="The docstring of benchmarks/server_load.py defines the measures.",
    )
    parser.add_argument("--model", type=Path, help="Apple's layout")
    parser.add_argument("--size", choices=random_checkpoint.SIZES, default="0.5b")
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--images", choices=("one", "each"), default="one")
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--python", help="mlx-vlm's, instead of setting one up")
    options = parser.parse_args()
    folder = cache_dir() / "peers"
    model = options.model
    if model is None:
        place = folder / f"{options.size}-{options.resolution}"
        random_checkpoint.make(place, options.size, options.resolution, dtype="float32")
        model = place / "llava"
    found: dict[str, dict[str, Any]] = {}
    for name in options.only:
        note(f"starting {name}")
        try:
            python = ""
            if name == "mlx-vlm":
                python = options.python or environments.make_environment(name, folder)
            path = "/health"
            served = model.name if name != "mlx-vlm" else str(model)
            line = command(name, model, options.clients, python)
            with serving(line, path) as port, tempfile.TemporaryDirectory() as images:
                found[name] = measure(port, served, options, Path(images))
            note(table({name: found[name]}, options.clients).splitlines()[-1])
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            found[name] = {"failed": str(error)}
    load = os.getloadavg()[0]
    print(table(found, options.clients), f"load average {load:.1f}", sep="\n\n")
    facts = {"machine": machine.facts(), "options": vars(options), "found": found}
    print(json.dumps(facts, default=str))


if __name__ == "__main__":
    main()
