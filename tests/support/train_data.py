"""What the tests of training data share: rows as PyTorch trainers label them, files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.train.data.read import read_samples
from fastvlm_mlx.train.data.samples import Image, Sample
from tests.support.small_tokenizers import MINI, library

IGNORE = -100  # PyTorch's ignore_index
IMAGE = -200  # LLaVA's place of an image


def naive(sample: Sample, image_tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """(ids, labels) of a whole conversation, as LLaVA's trainers make them.

    The conversation is one text, tokenized by the library with its control tokens; the
    answers are then searched for. Image places are IMAGE, labels elsewhere IGNORE.
    """
    tokenizer = library(MINI)
    system = sample.system
    system = "You are a helpful assistant." if system is None else system
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    counts = sample.joining()
    for (question, answer), count in zip(sample.turns, counts, strict=True):
        text += f"<|im_start|>user\n{'<image>' + chr(10) if count == 1 else ''}"
        if count > 1:
            text += "<image>\n" * count
        text += f"{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    ids: list[int] = []
    waiting = list(image_tokens)
    for at, part in enumerate(text.split("<image>")):
        if at:
            ids += [IMAGE] * waiting.pop(0)
        ids += tokenizer.encode(part, add_special_tokens=False).ids
    head = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False).ids
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False).ids
    labels = [IGNORE] * len(ids)
    for at in range(len(ids)):
        if ids[at : at + len(head)] == head:
            stop = ids.index(end, at + len(head))
            labels[at + len(head) : stop + 1] = ids[at + len(head) : stop + 1]
    return ids, labels


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """PyTorch's: logits (B, L, V) at l against labels (B, L) at l + 1, the mean."""
    total, count = 0.0, 0
    for row, wanted in zip(logits.astype(np.float64), labels, strict=True):
        for at in range(len(wanted) - 1):
            if wanted[at + 1] != IGNORE:
                scores = row[at]
                log_sum = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
                total += log_sum - scores[wanted[at + 1]]
                count += 1
    return total / count


class NumberedFeatures:
    """Features that say whose they are: image n has n * 100 + row in every column."""

    width = 4
    dtype = mx.float16

    def __init__(self, tokens: int = 3):
        self.tokens = tokens
        self.reads: list[Image] = []

    def read(self, image: Image) -> mx.array:
        self.reads.append(image)
        rows = mx.arange(self.tokens) + 100 * int(str(image))
        return mx.broadcast_to(rows[:, None], (self.tokens, 4)).astype(self.dtype)


def write(file: Path, *rows: Any) -> Path:
    """`file`, with a line of JSON for each row."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def only(file: Path, **options: Any) -> Sample:
    """The sample of a file that has one, and no faults."""
    (sample,), report = read_samples(file, **options)
    assert report.samples == 1 and not report.faults
    return sample
