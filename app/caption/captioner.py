"""Captions of several images at once; each is what `chat` would answer.

All prompts of a run differ in the image alone, so most are of one length and are
prefilled together.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.conversation.attachment import encoded
from fastvlm_mlx.errors import CheckpointError, ContextError, FastVLMError
from fastvlm_mlx.generation.batch import Completion, Prompt, complete
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing import chat_template
from fastvlm_mlx.processing.image_file import Source, open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import content_hash, preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


@dataclass(frozen=True)
class Caption:
    """`content` is a text or, if a schema was asked for, what the JSON holds.

    `finish_reason` is "stop" or "length".
    """

    content: Any
    finish_reason: str


class Captioner:
    """Answers one question about any number of images with `model`.

    `system` is the system prompt, None the model's own; `schema` is a JSON schema or
    None.
    """

    def __init__(
        self,
        model: "FastVLM",
        question: str,
        options: ImageOptions,
        sampling: Sampling,
        *,
        system: str | None = None,
        schema: Any = None,
    ):
        if model.language_model is None:
            raise CheckpointError(
                "this checkpoint is an encoder alone and cannot caption;"
                " give a whole FastVLM checkpoint"
            )
        self.model = model
        self.sampling = sampling
        self._options = options
        self._context_size = model.config.context_size
        self._schema = schema
        self._pieces = chat_template.encode_turn(
            model.tokenizer,
            question,
            [0],
            system=system,
            template=model.config.template,
        )

    def pixels(self, image: Source) -> np.ndarray:
        """The pixels of an image, (N, R, R, 3); any thread may call this.

        Raises:
            ImageError: it cannot be opened.
        """
        pinpoints = self.model.config.grid_pinpoints
        opened = open_image(image, long_side=self._options.page_side)
        return preprocess(opened, self._options, pinpoints)

    def captions(
        self, images: Iterable[np.ndarray | FastVLMError], size: int
    ) -> Iterator[Caption | FastVLMError]:
        """A caption, or why there is none, for each image, in order.

        Args:
            images: their `pixels`, or why there are none; read as they are needed.
            size: images that are answered together.
        """
        for each in complete(self.model, map(self._prompt, images), size=size):
            yield self._caption(each) if isinstance(each, Completion) else each

    def _prompt(self, pixels: np.ndarray | FastVLMError) -> Prompt | FastVLMError:
        if isinstance(pixels, FastVLMError):
            return pixels
        embeddings = self._embedded(pixels)
        left = self._context_size - embeddings.shape[1]
        if left < 1:
            return ContextError(
                f"the prompt needs {embeddings.shape[1] + 1} tokens of context and"
                f" there are {self._context_size}; use fewer tiles or a lower"
                " --resolution"
            )
        sampling = replace(
            self.sampling, max_tokens=min(self.sampling.max_tokens, left)
        )
        if self._schema is None:
            return Prompt(embeddings, sampling)
        from fastvlm_mlx.generation.constrained import JSONConstraint

        constraint = JSONConstraint(self.model, self._schema)
        return Prompt(embeddings, sampling, constraint)

    def _embedded(self, pixels: np.ndarray) -> mx.array:
        # One image after the other: a batch fills no device better, and takes more
        # memory. [N, tokens, hidden] -> [N * tokens, hidden], overview first
        if self.model.feature_cache.keeps_on_disk:
            features = encoded(self.model, content_hash(pixels), pixels)
        else:
            features = self.model.encode_pixels(pixels).flatten(0, 1)
        return self.model.embed(
            [
                features if isinstance(piece, chat_template.ImagePlaceholder) else piece
                for piece in self._pieces
            ]
        )

    def _caption(self, completion: Completion) -> Caption | FastVLMError:
        if self._schema is None:
            return Caption(completion.text.strip(), completion.finish_reason)
        try:
            return Caption(json.loads(completion.text), completion.finish_reason)
        except ValueError:
            count = len(completion.tokens)
            return FastVLMError(f"no whole JSON in {count} tokens; raise --max-tokens")
