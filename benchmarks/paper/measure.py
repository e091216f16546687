"""Measures the paper's encoders and language models on this machine.

A size that does not fit into memory or the time budget is not measured. Its time is
computed from FLOPs and bytes at the machine's measured speed, divided by the share of
that speed that the same network reached at its largest measured size (the median of all
networks, if it was not measured). Computed times are marked.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map

from benchmarks.paper.encoders import ENCODERS, LANGUAGE_MODELS
from fastvlm_mlx import device
from fastvlm_mlx.app.bench import flops
from fastvlm_mlx.app.bench.roofline import Speed
from fastvlm_mlx.model import language

# An encoder: (name, resolution, images at once). A prefill: (name, tokens).
Encode = tuple[str, int, int]
Prefill = tuple[str, int]
Key = Encode | Prefill


@dataclass(frozen=True)
class Time:
    """Seconds, whether they were measured, and the share of the roofline limit."""

    seconds: float
    measured: bool
    fraction: float


class Bench:
    """Measures what fits into `budget` seconds a run (estimated) and in memory."""

    def __init__(
        self,
        speed: Speed,
        budget: float,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.speed, self.budget, self.note, self.clock = speed, budget, note, clock
        self.dtype = device.device_dtype()
        self.runs: dict[Key, list[float]] = {}
        self._models: dict[str, Any] = {}
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.memory = 0.4 * memory

    def work(self, key: Key) -> flops.Work:
        """What `key` has to compute."""
        if len(key) == 3:
            name, resolution, images = key
            return ENCODERS[name].work(resolution, self.dtype.size) * images
        name, tokens = key
        return flops.prefill(LANGUAGE_MODELS[name], tokens, self.dtype.size)

    def feasible(self, key: Key) -> bool:
        """Whether `key` can be measured here, at a third of the machine's limit."""
        weights = (
            flops.prefill(LANGUAGE_MODELS[key[0]], 1, self.dtype.size).bytes
            if (len(key) == 2)
            else ENCODERS[key[0]].published * 1e6 * self.dtype.size
        )
        slow = 3 * self.speed.seconds(self.work(key))
        return slow <= self.budget and weights <= self.memory

    def measure(
        self,
        keys: Iterable[Key],
        rounds: int,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """`rounds` runs of each feasible key after one of warm-up, network by network.

        One network is held at a time; its sizes take turns. Keys that have runs already
        are left as they are. `done` is called after each network.
        """
        todo = [
            key
            for key in dict.fromkeys(keys)
            if key not in self.runs and self.feasible(key)
        ]
        for name in dict.fromkeys(key[0] for key in todo):
            sizes = [key for key in todo if key[0] == name]
            calls = {key: self._call(key) for key in sizes}
            for number in range(-1, rounds):
                for key, call in calls.items():
                    self.note(f"{key}: run {number + 1} of {rounds}")
                    started = self.clock()
                    mx.eval(call())
                    if number >= 0:
                        seconds = self.clock() - started
                        self.runs.setdefault(key, []).append(seconds)
            del calls
            self._models = {}
            mx.clear_cache()
            done()

    def time(self, key: Key) -> Time:
        """The median of the runs of `key`, or a computed time."""
        least = self.speed.seconds(self.work(key))
        if key in self.runs:
            seconds = statistics.median(self.runs[key])
            return Time(seconds, True, least / seconds)
        fraction = self._usual_fraction(key)
        return Time(least / fraction, False, fraction)

    def _usual_fraction(self, key: Key) -> float:
        """The share of the limit that the network of `key` reached at its largest
        measured size."""
        if not self.runs:
            raise ValueError("nothing was measured, so nothing can be computed from it")
        if (source := self.source(key)) is not None:
            return self.time(source).fraction
        alike = [known for known in self.runs if len(known) == len(key)]
        return statistics.median(self.time(k).fraction for k in alike or self.runs)

    def source(self, key: Key) -> Key | None:
        """The largest measured size of the network of `key`, if any was measured."""
        alike = [known for known in self.runs if known[0] == key[0]]
        return max(alike, key=lambda known: self.work(known).flops, default=None)

    def _call(self, key: Key) -> Callable[[], mx.array]:
        if len(key) == 3:
            name, resolution, images = key
            model: Any = ENCODERS[name].build(resolution)
            randomize(model, self.dtype)
            pixels = mx.random.uniform(shape=(images, resolution, resolution, 3))
            pixels = pixels.astype(self.dtype)
            mx.eval(pixels)
            return lambda: model(pixels)
        name, tokens = key
        config = LANGUAGE_MODELS[name]
        if name not in self._models:
            self._models = {name: language.build(config)}
            randomize(self._models[name], self.dtype)
        model = self._models[name]
        shape = (1, tokens, config.hidden_size)
        embeddings = mx.random.normal(shape).astype(self.dtype)
        mx.eval(embeddings)
        return lambda: prefill(model, embeddings)


def prefill(model: Any, embeddings: mx.array) -> mx.array:
    """The logits after the last of `embeddings`, (1, L, hidden), as we compute them."""
    cache = language.make_cache(model)
    return language.head(model, language.hidden(model, embeddings, cache)[:, -1])


def randomize(model: nn.Module, dtype: mx.Dtype) -> None:
    """Small random weights. One million numbers repeated: drawing billions takes long,
    and no product is faster for it."""
    numbers = 0.02 * np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)

    def drawn(array: mx.array) -> mx.array:
        return mx.array(np.resize(numbers, array.shape)).astype(dtype)

    model.update(tree_map(drawn, model.parameters()))
    mx.eval(model.parameters())
