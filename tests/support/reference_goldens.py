"""The results of a reference model, as `golden.npz` of a checkpoint holds them."""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from pathlib import Path

import numpy as np
import tokenizers
import torch

from tests.support.reference_layouts import Arrays
from tests.support.reference_models import Reference

TOKENIZER = Path(__file__).parents[1] / "golden" / "tokenizer" / "tokenizer.json"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<image>\nDescribe the image.<|im_end|>\n<|im_start|>assistant\n"
)
STOPS = {1536, 1538}
GREEDY, ANSWER = 12, 16
# Tests allow a logit to be off by 1e-3 of the deviation: so may the best two be.
MARGIN = 2.5e-3


class DoubtfulAnswer(ValueError):
    """Rounding might change a greedy token, or the answers say too little."""


def prompt_ids() -> tuple[list[int], list[int]]:
    """Token ids before and after the image."""
    library = tokenizers.Tokenizer.from_file(str(TOKENIZER))
    before, after = (library.encode(part).ids for part in CHAT.split("<image>"))
    return before, after


def golden(model: Reference, images: Arrays) -> Arrays:
    """Everything about one image of coloured squares, and the first tokens of an
    answer about each of `images` (uint8, (256, 256, 3))."""
    before, after = prompt_ids()
    image = pixels(squares())
    logits = model.logits(image, before, after)
    results = {
        "image": image.numpy(),
        "features": model.features(image).numpy(),
        "embeds": model.embeds(image).numpy(),
        "ids_before": np.array([before]),
        "ids_after": np.array([after]),
        "logits_last": logits[:, -1].numpy(),
        "logits_all": logits.numpy(),
        "greedy": greedy(model, image, GREEDY),
    }
    answers = {
        f"chat/{name}": greedy(model, pixels(array), ANSWER)
        for name, array in images.items()
    }
    if len({tuple(ids[:2]) for ids in answers.values()}) < len(answers):
        raise DoubtfulAnswer("answers about several images begin alike")
    if max(ids.max() for ids in answers.values()) < 1539:
        raise DoubtfulAnswer("no answer uses the padded part of the vocabulary")
    return results | answers


def greedy(model: Reference, image: torch.Tensor, count: int) -> np.ndarray:
    """The likeliest tokens, one after another, each likeliest by a clear margin."""
    before, after = prompt_ids()
    ids: list[int] = []
    for _ in range(count):
        logits = model.logits(image, before, after + ids)[0, -1]
        (best, second), (id, _) = logits.topk(2)
        margin = float((best - second) / logits.std())
        if margin < MARGIN:
            raise DoubtfulAnswer(f"a margin of {margin:.1e} of the logits' deviation")
        if int(id) in STOPS:
            raise DoubtfulAnswer("an answer ends")
        ids.append(int(id))
    return np.array(ids)


def squares() -> np.ndarray:
    """A board of random colours: every frequency, and yet small when compressed."""
    board = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return board.repeat(4, axis=0).repeat(4, axis=1)


def pixels(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) of 0..255 to (1, 3, H, W) of 0..1."""
    values = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    return torch.from_numpy(values.astype(np.float32) / 255)
