"""Measures one model at one resolution, stage by stage, for `fastvlm-mlx bench`.

TTFT (time to first token) runs from the call with a path and a prompt, the model
loaded, to the first chunk of text: decode + preprocess + encode + project + prefill +
first token. It is measured undisturbed, through the product's own stream. The stages
are measured in runs of their own, with `mx.eval` after each: their sum is a little
more than TTFT. Further:

- paper TTFT: encode + project + prefill of the visual tokens alone, as in the FastVLM
  paper (arXiv 2412.13303, section 4), which leaves the image file and the words out;
- cold TTFT: from the start of a new process (`fastvlm-mlx chat`) to the first byte of
  its answer;
- follow-up TTFT: a second question about the same image.

Every run sees an image of its own (a few pixels differ), so that no features are
remembered; the fixed beginning of the prompt is, as in any use.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image

from fastvlm_mlx import device
from fastvlm_mlx.model import language
from fastvlm_mlx.peak_memory import peak_memory
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import content_hash, preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.fastvlm import FastVLM

FOLLOW_UP = "What else is in it?"


@dataclass(frozen=True)
class Case:
    """What is measured: `resolution` in pixels, `tiles` as (rows, columns), and how."""

    resolution: int
    tiles: tuple[int, int] | None
    prompt: str
    max_tokens: int
    runs: int
    warmup: int


def measure(
    model: "FastVLM", case: Case, files: Iterator[Path], step: Callable[[], None]
) -> dict[str, Any]:
    """Seconds of every stage, one list entry per run; tokens, speed and memory.

    Args:
        files: paths of images, each another one; two are used per run.
        step: called after each of the `runs + warmup` rounds.
    """
    seconds: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    mx.reset_peak_memory()
    for run in range(case.warmup + case.runs):
        whole, found = _undisturbed(model, case, next(files))
        parts = _staged(model, case, next(files))
        if run >= case.warmup:
            for name, value in {**whole, **parts}.items():
                seconds.setdefault(name, []).append(value)
        step()
    return {**found, "seconds": seconds, "peak_mlx": mx.get_peak_memory()}


def _conversation(model: "FastVLM", case: Case) -> "Conversation":
    return model.conversation(resolution=case.resolution, tiles=case.tiles)


def _undisturbed(model: "FastVLM", case: Case, file: Path) -> tuple[dict, dict]:
    """TTFT, decoding and a follow-up as a user gets them."""
    conversation = _conversation(model, case)
    first = last = None
    # All runs are equally long: no stop token ends an answer.
    for last in conversation.stream(
        case.prompt, [file], max_tokens=case.max_tokens, ignore_eos=True
    ):
        first = first or last
    again = next(iter(conversation.stream(FOLLOW_UP, max_tokens=1, ignore_eos=True)))
    assert first is not None and last is not None
    seconds = {"ttft": first.ttft, "follow_up_ttft": again.ttft}
    if last.generation_tps:
        seconds["decode_token"] = 1 / last.generation_tps
    return seconds, {
        "prompt_tokens": first.prompt_tokens,
        "visual_tokens": first.visual_tokens,
        "cached_tokens": first.cached_tokens,
        "generation_tokens": last.generation_tokens,
    }


def _staged(model: "FastVLM", case: Case, file: Path) -> dict[str, float]:
    """Every stage on its own, each waited for."""
    clock = Clock()
    image = open_image(str(file))
    clock.lap("decode")
    options = ImageOptions.of(
        model.config, resolution=case.resolution, tiles=case.tiles
    )
    pixels = preprocess(image, options, model.config.grid_pinpoints)
    clock.lap("preprocess")
    features = model.encode_features(pixels)
    mx.eval(features)
    clock.lap("encode")
    visual = model.project(features).flatten(0, 1)
    mx.eval(visual)
    clock.lap("project")
    cache = language.make_cache(model.language_model)
    mx.eval(model.logits(model.embed([visual]), cache))
    clock.lap("visual_prefill")
    del cache
    # The conversation finds its features ready, and times the rest.
    model.feature_cache.put(content_hash(pixels), [visual])
    stream = _conversation(model, case).stream(
        case.prompt, [file], max_tokens=1, ignore_eos=True, detailed=True
    )
    timings = next(iter(stream)).timings
    seconds = clock.seconds
    visual_prefill = seconds.pop("visual_prefill")
    seconds["prefill"] = timings.prefill or 0.0
    seconds["first_token"] = timings.first_token or 0.0
    seconds["paper_ttft"] = seconds["encode"] + seconds["project"] + visual_prefill
    return seconds


class Clock:
    """Seconds between calls of `lap`, by name."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def cold(
    model: str, case: Case, file: Path, adapter: Path | None = None
) -> dict[str, float] | str:
    """Cold TTFT (seconds) and the peak memory (bytes) of a whole new process.

    A reason instead, where the process failed or its answer was empty.
    """
    command = [sys.executable, "-m", "fastvlm_mlx", "chat", str(file)]
    command += ["-p", case.prompt, "--model", model, "--max-tokens", "8"]
    # Not `auto`, which may encode with Core ML, or time it first.
    command += ["--resolution", str(case.resolution), "--encoder", "mlx"]
    if adapter is not None:
        command += ["--adapter", str(adapter)]
    if case.tiles:
        command += ["--tiles", "x".join(map(str, case.tiles))]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdout is not None and process.stderr is not None
    pieces, peak = [process.stdout.read(1)], 0
    seconds = time.perf_counter() - started
    while pieces[-1]:  # a piece with each token, so the last ones are seen
        peak = max(peak, peak_memory(process.pid) or 0)
        pieces.append(process.stdout.read(4096))
    answer = b"".join(pieces)
    said = process.stderr.read().decode(errors="replace")
    process.stdout.close()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return (said.strip().splitlines() or ["no reason given"])[-1]
    if not answer.strip():
        return "the answer was empty"
    resident = peak or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # macOS does not count Metal's memory as resident: this process had the same work.
    metal = mx.get_peak_memory() if device.on_gpu() else 0
    return {"cold_ttft": seconds, "peak_memory": max(resident, metal)}


def dtype_of(model: "FastVLM") -> mx.Dtype:
    """What the model computes in: the dtype of its first plain weight."""
    arrays: Any = tree_flatten(model.parameters())
    plain = (a.dtype for _, a in arrays if mx.issubdtype(a.dtype, mx.floating))
    return next(plain, mx.float32)


def has_rounded_weights(model: "FastVLM") -> bool:
    """Whether weights are bfloat16 in memory, whatever the model computes in."""
    arrays: Any = tree_flatten(model.parameters())
    return any(a.dtype == mx.bfloat16 for _, a in arrays)


def variants(image: Image.Image, folder: Path, format: str) -> Iterator[Path]:
    """Files of images that differ from `image` in one corner, without end."""
    suffix = {"JPEG": ".jpg"}.get(format, ".png")
    number = 0
    while True:
        number += 1
        changed = image.copy()
        shade = tuple(number // 32**place % 32 * 8 for place in range(3))
        changed.paste(shade, (0, 0, max(image.width // 16, 1), image.height // 16 + 1))
        path = folder / f"image-{number}{suffix}"
        changed.save(path, quality=90) if suffix == ".jpg" else changed.save(path)
        yield path


def example(width: int = 1600, height: int = 1200) -> Image.Image:
    """An image for measuring where none is given: soft colours, edges and grain."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    waves = np.stack([np.sin(x / 90), np.cos(y / 70), np.sin((x + y) / 50)], axis=-1)
    edges = 40 * (((x // 200) + (y // 150)) % 2)[..., None]
    return Image.fromarray(
        np.clip(110 + 60 * waves + edges + grain, 0, 255).astype("u1")
    )
