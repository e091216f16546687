"""Captions of several images at once, each what `chat` would answer.

All prompts of a run differ in the image alone, so they are of one length and share
an ordinary KV cache with a row for each. A row whose answer ended is taken out.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import CheckpointError, ContextError, FastVLMError
from fastvlm_mlx.generation import stream
from fastvlm_mlx.generation.sampling import Sampler, Sampling, make_sampler
from fastvlm_mlx.model import language
from fastvlm_mlx.processing import chat_template
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_processor import ImageOptions, preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


@dataclass(frozen=True)
class Caption:
    """`content` is a text or, if a schema was asked for, what the JSON holds.

    `finish_reason` is "stop" or "length".
    """

    content: Any
    finish_reason: str


@dataclass
class _Row:
    index: int
    choose: Sampler | None
    ids: list[int] = field(default_factory=list)
    text: str | None = None  # once a stop text has cut it


class Captioner:
    """Answers one question about any number of images with `model`.

    `view` are the options of a conversation; `schema` is a JSON schema or None.

    Raises OptionError for an option that cannot be honoured.
    """

    def __init__(
        self,
        model: "FastVLM",
        question: str,
        view: dict[str, Any],
        sampling: Sampling,
        schema: Any = None,
    ):
        if model.language_model is None:
            raise CheckpointError(
                "this checkpoint is an encoder alone and cannot caption;"
                " give a whole FastVLM checkpoint"
            )
        options = dict(view)
        system = options.pop("system", None)
        self.model = model
        self.sampling = sampling
        self._view = ImageOptions.of(model.config, **options)
        self._context_size = model.config.context_size
        self._schema = schema
        self._pieces = chat_template.encode_turn(
            model.tokenizer,
            question,
            [0],
            system=system,
            template=model.config.template,
        )

    def pixels(self, name: str) -> np.ndarray:
        """What the model is to see of an image; any thread may do this.

        Raises ImageError if it cannot be opened.
        """
        return preprocess(
            open_image(name), self._view, self.model.config.grid_pinpoints
        )

    def captions(self, pixels: Sequence[np.ndarray]) -> list[Caption | FastVLMError]:
        """A caption, or why there is none, for each of several images, in order."""
        found: dict[int, Caption | FastVLMError] = {}
        # Only a model that chooses its tiles itself has prompts of several lengths.
        for size in {len(each) for each in pixels}:
            indices = [at for at, each in enumerate(pixels) if len(each) == size]
            found |= self._group(indices, [pixels[at] for at in indices])
        return [found[at] for at in range(len(pixels))]

    def _group(
        self, indices: list[int], pixels: list[np.ndarray]
    ) -> dict[int, Caption | FastVLMError]:
        embeddings = mx.concatenate([self._embedded(each) for each in pixels])
        left = self._context_size - embeddings.shape[1]
        if left < 1:
            fault = ContextError(
                f"the prompt needs {embeddings.shape[1] + 1} tokens of context and"
                f" there are {self._context_size}; use fewer tiles or a lower"
                " --resolution"
            )
            return dict.fromkeys(indices, fault)
        sampling = replace(
            self.sampling, max_tokens=min(self.sampling.max_tokens, left)
        )
        rows = [_Row(index, self._chooser(sampling)) for index in indices]
        return self._decoded(rows, embeddings, sampling)

    def _decoded(
        self, rows: list[_Row], embeddings: mx.array, sampling: Sampling
    ) -> dict[int, Caption | FastVLMError]:
        cache = language.make_cache(self.model.language_model)
        while embeddings.shape[1] > stream.PREFILL_STEP:
            self.model.logits(embeddings[:, : stream.PREFILL_STEP], cache)
            mx.eval([layer.state for layer in cache])
            embeddings = embeddings[:, stream.PREFILL_STEP :]
        tokens = _choose(rows, self.model.logits(embeddings, cache))
        embed = self.model.embed_tokens
        captions: dict[int, Caption | FastVLMError] = {}
        for step in range(1, sampling.max_tokens + 1):
            if step % 256 == 0:
                mx.clear_cache()
            # The next tokens are under way before these are looked at.
            following = tokens
            if step < sampling.max_tokens:
                following = _choose(
                    rows, self.model.logits(embed(tokens[:, None]), cache)
                )
            going: list[int] = []
            for at, token in enumerate(tokens.tolist()):  # type: ignore
                row = rows[at]
                if self._takes(row, token):
                    captions[row.index] = self._caption(row, "stop")
                elif step == sampling.max_tokens:
                    captions[row.index] = self._caption(row, "length")
                else:
                    going.append(at)
            if not going:
                break
            tokens = following
            if len(going) < len(rows):
                rows = [rows[at] for at in going]
                kept = mx.array(going)
                tokens = following[kept]
                for layer in cache:
                    layer.keys, layer.values = layer.keys[kept], layer.values[kept]
        return captions

    def _embedded(self, pixels: np.ndarray) -> mx.array:
        # One image after the other: a batch fills no device better, and takes more
        # memory. [N, tokens, hidden] -> [N * tokens, hidden], overview first
        features = self.model.encode_pixels(pixels).flatten(0, 1)
        return self.model.embed(
            [
                features if isinstance(piece, chat_template.ImagePlaceholder) else piece
                for piece in self._pieces
            ]
        )

    def _chooser(self, sampling: Sampling) -> Sampler | None:
        """How a row chooses; None where the likeliest token is always taken."""
        constraint = None
        if self._schema is not None:
            from fastvlm_mlx.generation.constrained import JSONConstraint

            constraint = JSONConstraint(self.model, self._schema)
        plain = sampling.temperature == 0 and sampling.repetition_penalty in (None, 1)
        return None if plain and not constraint else make_sampler(sampling, constraint)

    def _takes(self, row: _Row, token: int) -> bool:
        """Adds a token to a row; True if the answer ends there."""
        if token in self.model.tokenizer.stop_ids:
            return True
        row.ids.append(token)
        if self.sampling.stop:
            text = self.model.tokenizer.decode(row.ids)
            cuts = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
            row.text = text[: min(cuts)] if cuts else None
        return row.text is not None

    def _caption(self, row: _Row, finish: str) -> Caption | FastVLMError:
        text = row.text
        if text is None:
            text = self.model.tokenizer.decode(row.ids)
        if self._schema is None:
            return Caption(text.strip(), finish)
        try:
            return Caption(json.loads(text), finish)
        except ValueError:
            return FastVLMError(
                f"no whole JSON in {len(row.ids)} tokens; raise --max-tokens"
            )


def _choose(rows: list[_Row], logits: mx.array) -> mx.array:
    """(B, vocab) to (B,), under way."""
    if rows[0].choose is None:
        tokens = mx.argmax(logits, axis=-1)
    else:
        tokens = mx.concatenate(
            [
                row.choose(logits[at : at + 1])
                for at, row in enumerate(rows)
                if row.choose
            ]
        )
    mx.async_eval(tokens)
    return tokens
