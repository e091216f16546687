"""Asks every variant questions about drawn images, in a pool of processes.

A process draws an image once and asks all variants about it. An answer depends on the
question only: each process has one core, so the order of summation does not depend on
the number of processes, and the caches of a model are cleared after each question.
"""

import functools
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.accuracy.variants import Variant, load_variant
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.device import on_cpu
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.evaluation import question
from training import drawing, questions, world

FIRST_SEED = 2_000_000_000  # training ends far below
MAX_TOKENS = 96
# name: whether it is the look that training held back
LOOKS = {"other seeds": False, "unseen look": True}


@dataclass(frozen=True)
class Question:
    """One question about the image of `seed`, with its right answer."""

    kind: str
    look: str
    seed: int
    text: str
    answer: str

    @property
    def category(self) -> str:
        """Such as "other seeds/colour"."""
        return f"{self.look}/{self.kind}"

    def as_evaluated(self) -> question.Question:
        """The same for `fastvlm_mlx.evaluation`, without its image."""
        return question.Question(
            id=f"{self.look}/{self.kind}/{self.seed}",
            images=(),
            text=self.text,
            answers=(self.answer,),
            category=self.category,
        )


@dataclass(frozen=True)
class Answer:
    """What a variant said and how long that took, or why it could not."""

    text: str
    seconds: float
    fault: str = ""


def draw_questions(kinds: Sequence[str], number: int) -> Iterator[Question]:
    """`number` images of each look and kind with one question of that kind each.

    Numbers have two digits.
    """
    for look, held_out in LOOKS.items():
        for kind in kinds:
            seed = FIRST_SEED + 10_000_000 * questions.KINDS.index(kind)
            found = 0
            while found < number:
                scene = world.sample(seed, held_out=held_out)
                pairs = [pair for pair in questions.pairs(scene) if pair.kind == kind]
                if kind == "number":
                    pairs = [pair for pair in pairs if len(pair.answer) == 2]
                if pairs:
                    found += 1
                    choice = np.random.default_rng(seed + 1).integers(len(pairs))
                    pair = pairs[choice]
                    yield Question(kind, look, seed, pair.question, pair.answer)
                seed += 1


def ask(variants: Sequence[Variant], asked: Question) -> tuple[Answer, ...]:
    """The answer of every variant to one question."""
    scene = world.sample(asked.seed, held_out=LOOKS[asked.look])
    image = Image.fromarray(drawing.render(scene))
    return tuple(_ask(variant, image, asked.text) for variant in variants)


def _ask(variant: Variant, image: Image.Image, text: str) -> Answer:
    if variant.fault:
        return Answer("", 0.0, variant.fault)
    try:
        model = load_variant(variant.folder, variant.dtype, variant.package)
        started = time.perf_counter()
        text = model.ask(
            text, [image], resolution=variant.resolution, tiles=variant.tiles,
            max_tokens=MAX_TOKENS, temperature=0.0,
        )  # fmt: skip
    except FastVLMError as fault:
        return Answer("", 0.0, str(fault))
    # No image is asked about twice, and the KV cache of the shared prompt prefix would
    # make the first answer's arithmetic differ from the others'.
    model.feature_cache.clear()
    return Answer(text.strip(), time.perf_counter() - started)


def answers(
    variants: Sequence[Variant], asked: Iterable[Question], workers: int
) -> Iterator[tuple[Question, tuple[Answer, ...]]]:
    """Each question with the answers of all variants, in the order given."""
    # For the child processes: NumPy's BLAS counts cores before `_pin_to_core` runs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.platform == "linux" and on_cpu():
        # Compile them now. Small images alone would not cause it, and an answer must
        # not depend on when another process compiled them.
        kernels.library()
    # MLX does not survive a fork.
    context = get_context("spawn")
    cores = context.SimpleQueue()
    for number in range(workers):
        cores.put(number)
    executor = ProcessPoolExecutor(workers, context, _pin_to_core, (cores,))
    # Drawing questions takes long: the first are answered meanwhile.
    sent, kept = itertools.tee(asked)
    try:
        replies = executor.map(functools.partial(ask, tuple(variants)), sent)
        yield from zip(kept, replies, strict=True)
    finally:
        executor.shutdown(cancel_futures=True)


def _pin_to_core(cores: Any) -> None:
    """Gives this process a core of its own, where the system can (Linux).

    The kernels and BLAS then start one thread. Two of them on arrays this small mostly
    wait for each other: a question takes two to four times the CPU seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process
    number = cores.get()
    if sys.platform == "linux" and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[number % len(usable)]})
