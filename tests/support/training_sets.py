"""A small training set: images of random features, and what to answer about each."""

from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.train.data.rows import build_row
from fastvlm_mlx.train.data.samples import Image, Sample
from fastvlm_mlx.train.loop import TrainingSet
from tests.support.small_tokenizers import MINI

TOKENS, WIDTH = 4, 32  # positions of an image of `MockModel`, and its features' width
ANSWERS = ("red", "green blue", "a white cat")


class RandomFeatures:
    """Features that follow from an image's name: `N-K.png` is image N, answer K.

    Images of one answer are alike, so there is something to learn.
    """

    width, dtype = WIDTH, mx.float16

    def __init__(self, share: float = 0.5):
        self.share, self.reads = share, 0

    def read(self, image: Image) -> mx.array:
        self.reads += 1
        number, answer = map(int, Path(str(image)).stem.split("-"))
        own = np.random.default_rng(1000 + number).normal(size=(TOKENS, WIDTH))
        alike = np.random.default_rng(answer).normal(size=(TOKENS, WIDTH))
        return mx.array(self.share * own + alike).astype(mx.float16)


def sample(number: int) -> Sample:
    """Of one image; every third has a second question."""
    answer = number % len(ANSWERS)
    turns = [("What is it?", ANSWERS[answer])]
    if number % 3 == 1:
        turns.append(("Is it new? Say why, in a few words.", "Yes, it is new."))
    return Sample((Path(f"{number}-{answer}.png"),), tuple(turns))


def training_set(count: int = 6, held_out: int = 2) -> TrainingSet:
    """`count` rows and `held_out` other ones."""
    tokenizer = Tokenizer(MINI)
    rows = [
        build_row(sample(number), tokenizer, [TOKENS])
        for number in range(count + held_out)
    ]
    return TrainingSet(rows[:count], rows[count:], RandomFeatures())
