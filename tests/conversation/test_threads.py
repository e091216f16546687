"""Features, conversations and models made in one thread and used in another."""

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import mlx.core as mx
import pytest

import fastvlm_mlx
from fastvlm_mlx import FastVLM
from tests.support.paths import EXAMPLES

IMAGE = EXAMPLES / "number.png"
Made = TypeVar("Made")


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    return fastvlm_mlx.load("demo")


def in_thread(make: Callable[[], Made]) -> Made:
    """What `make` returns in a thread that has ended."""
    made: list[Made] = []
    worker = threading.Thread(target=lambda: made.append(make()))
    worker.start()
    worker.join()
    return made[0]


def test_features_of_another_thread(demo: FastVLM):
    features = in_thread(lambda: demo.encode_image(IMAGE))
    expected = demo.encode_image(IMAGE)
    # Both as they are and in a graph of this thread.
    assert mx.array_equal(features, expected)
    assert float((features * 2).sum()) == float((expected * 2).sum())


def test_features_of_several_images_of_another_thread(demo: FastVLM):
    features = in_thread(lambda: demo.encode_image([IMAGE, IMAGE], tiles=(1, 2)))
    assert len(features) == 6
    assert bool(mx.isfinite(features).all())


def test_a_conversation_that_changes_threads(demo: FastVLM):
    questions = ["Describe the image.", "And?", "Which color is the sign?"]
    at_home = demo.conversation(IMAGE)
    expected = [at_home.ask(question, max_tokens=8) for question in questions]
    away = in_thread(lambda: demo.conversation(IMAGE))
    answers = [
        away.ask(questions[0], max_tokens=8),
        in_thread(lambda: away.ask(questions[1], max_tokens=8)),
        away.ask(questions[2], max_tokens=8),
    ]
    assert answers == expected


def test_a_model_of_another_thread(demo: FastVLM):
    model = in_thread(lambda: fastvlm_mlx.load("demo"))
    expected = demo.ask("Describe the image.", IMAGE, max_tokens=8)
    assert model.ask("Describe the image.", IMAGE, max_tokens=8) == expected


FORK = """
import os, signal, sys
import fastvlm_mlx
from fastvlm_mlx.errors import FastVLMError

image = sys.argv[1]
model = fastvlm_mlx.load("demo")
uses = [
    lambda: model.ask("Hi", max_tokens=2),
    lambda: model.encode_image(image),
    lambda: fastvlm_mlx.load("demo"),
]
for use in uses:
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            use()
        except FastVLMError as error:
            print(error, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child hung"
print(model.ask("Describe the image.", image, max_tokens=8))
"""


def test_a_fork_is_refused_and_its_parent_goes_on(demo: FastVLM):
    run = subprocess.run(
        [sys.executable, "-c", FORK, str(IMAGE)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    *refused, answer = run.stdout.splitlines()
    assert len(refused) == 3
    assert all('multiprocessing.get_context("spawn")' in line for line in refused)
    assert answer == demo.ask("Describe the image.", IMAGE, max_tokens=8)
