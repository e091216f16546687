"""One turn of one setting: everything that is measured, each process new.

The model's files are read before, so that no peer waits for the disk. The answer to a
first image warms a process up, a second image is measured. Where the first took longer
than `SLOW` seconds to its first token it counts itself: what lasts so long gains
nothing from a warm-up.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import environments, process
from benchmarks.peers.models import Models
from benchmarks.peers.settings import OURS, Setting
from fastvlm_mlx.errors import FastVLMError

PROMPT = "Describe the image."
FOLLOW_UP = "What else is in it?"
SLOW = 20.0
_CHUNK = 1 << 23  # bytes that are read at a time


@dataclass(frozen=True)
class Place:
    """What all turns share.

    Attributes:
        models: the folders.
        environments: where environments are made.
        pythons: interpreters to use instead, by the peer's name.
        resolution: of the image, in pixels.
        tokens: of each answer.
        limit: seconds that loading or one answer may take.
    """

    models: Models
    environments: Path
    pythons: Mapping[str, str]
    resolution: int
    tokens: int
    limit: float


def prepare(setting: Setting, place: Place) -> None:
    """Makes the environment and the model folder that it needs; not part of a turn.

    What cannot be made is told by its turn.
    """
    with suppress(OSError, subprocess.SubprocessError, FastVLMError):
        _python(setting, place)
        place.models.path(setting.model)


def measure(setting: Setting, place: Place, images: tuple[Path, Path]) -> dict:
    """Seconds, tokens a second and bytes of one turn; `failed` where something did.

    Args:
        images: the one to warm up with, and the one that is measured.
    """
    started = time.perf_counter()
    found: dict[str, Any] = {"setting": setting.name, "load": os.getloadavg()[0]}
    try:
        python = _python(setting, place)
        model = place.models.path(setting.model)
        read(model)
        arguments = {
            "model": str(model),
            "resolution": place.resolution,
            **setting.options,
        }
        running = process.Process(python, setting.runtime, arguments, place.limit)
        with running:
            found |= _answers(running, setting, place.tokens, images)
            found["facts"] = running.loaded.get("facts", {})
        if running.failed:
            found["failed"] = running.failed
        elif setting.variant != "installed":
            command, marker = cold_command(setting, python, arguments, images[1])
            seconds = process.cold(command, marker, place.limit)
            key = "failed" if isinstance(seconds, str) else "cold_ttft"
            found[key] = seconds
    except (OSError, subprocess.SubprocessError, FastVLMError) as error:
        words = getattr(error, "stderr", None) or str(error)
        found["failed"] = f"not set up: {words.strip().splitlines()[-1]}"
    found["seconds"] = time.perf_counter() - started
    return found


def read(folder: Path) -> int:
    """Reads a folder's files into the system's cache; returns how many bytes."""
    size = 0
    for path in filter(Path.is_file, folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
    return size


def _python(setting: Setting, place: Place) -> str:
    if setting.peer == OURS:
        return sys.executable
    return place.pythons.get(setting.peer) or environments.make_environment(
        setting.peer, place.environments
    )


def _answers(
    running: process.Process, setting: Setting, tokens: int, images: tuple[Path, Path]
) -> dict[str, Any]:
    """A question, a follow-up, and what else the runtime can say."""
    found: dict[str, Any] = {"versions": running.loaded.get("versions")}
    asked = {"do": "first", "prompt": PROMPT, "tokens": tokens}
    again = {"do": "follow", "prompt": FOLLOW_UP, "tokens": 2}
    first = running.ask(image=str(images[0]), **asked)
    warm = first is not None and first["ttft"] < SLOW
    if warm:
        running.ask(**again)
        first = running.ask(image=str(images[1]), **asked)
    if first is None:
        return found
    found |= {
        "warm": warm,
        "ttft": first["ttft"],
        "generation_tps": first["generation_tps"],
        "ids": first["ids"],
        "prompt_tokens": first["prompt_tokens"],
        "cpu_seconds": first["cpu_seconds"],
        "memory": first["peak_memory"],
    }
    # On Linux MLX's own BLAS would need minutes for it.
    if setting.variant != "installed" and (follow := running.ask(**again)):
        found["follow_up_ttft"] = follow["ttft"]
    if setting.name == "ours-float32":
        # mlx-lm computes with neither bfloat16 nor quantized weights on a CPU at speed.
        length = first["prompt_tokens"]
        if bare := running.ask(do="bare", positions=length, tokens=tokens):
            found["bare_tps"] = bare["generation_tps"]
    if setting.peer == "transformers" and (speeds := running.ask(do="products")):
        found["products"] = {
            name: speed
            for name, speed in speeds.items()
            if name in ("float32", "bfloat16")
        }
    return found


def cold_command(
    setting: Setting, python: str, arguments: dict[str, Any], image: Path
) -> tuple[list[str], bytes]:
    """The command of a user, and the text that it prints before the answer."""
    model, resolution = arguments["model"], str(arguments["resolution"])
    if setting.peer == OURS:
        command = [python, "-m", "fastvlm_mlx", "chat", str(image), "-p", PROMPT]
        command += ["--model", model, "--max-tokens", "4", "--resolution", resolution]
        return command, b""
    if setting.peer == "transformers":
        # It has no command: the shortest program that answers.
        task = image.with_suffix(".json")
        task.write_text(
            json.dumps({**arguments, "prompt": PROMPT, "image": str(image)})
        )
        return [python, "-m", setting.runtime, "once", str(task)], b""
    # mlx_vlm.generate streams with --verbose alone, after showing the prompt.
    bind = "openblas.bind(); " if arguments["fast_blas"] else ""
    start = (
        f"import runpy, sys; from fastvlm_mlx.cpu import openblas; {bind}"
        "runpy.run_module('mlx_vlm', run_name='__main__', alter_sys=True)"
    )
    command = [python, "-c", start, "generate", "--model", model]
    command += ["--image", str(image), "--prompt", PROMPT, "--verbose"]
    return [*command, "--max-tokens", "4", "--temperature", "0"], (
        b"<|im_start|>assistant\n"
    )
