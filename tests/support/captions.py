"""Captions at no cost, in the place of a model's."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from fastvlm_mlx.errors import FastVLMError


def captions_by(
    answer: Callable[[Captioner, np.ndarray], Caption | FastVLMError],
) -> Any:
    """A `Captioner.captions` that gives `answer` of each image."""

    def captions(
        captioner: Captioner, images: Iterable[np.ndarray | FastVLMError], size: int
    ) -> Iterator[Caption | FastVLMError]:
        for each in images:
            fault = isinstance(each, FastVLMError)
            yield each if fault else answer(captioner, each)

    return captions
