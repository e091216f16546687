"""Answers to several prompts with images at once (`batch_generate`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.conversation.answer import answer_room
from fastvlm_mlx.conversation.attachment import (
    Attachment,
    ImageSources,
    as_list,
    attach,
)
from fastvlm_mlx.conversation.history import History
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation import batch
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


def batch_generate(
    model: "FastVLMModel",
    prompts: Sequence[str],
    images: Sequence[ImageSources] = (),
    *,
    system: str | None = None,
    fit: str | None = None,
    resolution: int | None = None,
    tiles: tuple[int, int] | None = None,
    max_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
) -> list[str]:
    """The answers to several prompts; each is what `model.ask` gives.

    Prompts of one length, images included, are answered together.

    Args:
        model: the model.
        prompts: the questions.
        images: none, or for each prompt its image or list of images.
        system: the system prompt of all; the other options are as for `model.ask`.
    Raises:
        OptionError: an option cannot be honoured, or `images` do not match.
        ImageError: an image cannot be opened.
        ContextError: a prompt does not fit.
    """
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop,
        ignore_eos=ignore_eos,
    )
    options = ImageOptions.of(model.config, fit, resolution, tiles)
    if images and len(images) != len(prompts):
        raise OptionError(
            f"images: {len(images)} for {len(prompts)} prompts; give none, or one entry"
            " for each"
        )
    state = History(model, system)  # stays empty: every prompt is a first one
    groups: dict[int, list[tuple[int, mx.array]]] = {}
    for index, prompt in enumerate(prompts):
        attached: list[Attachment] = []
        if images:
            attached = [attach(model, each, options) for each in as_list(images[index])]
        pieces = state.with_question(prompt, attached)
        answer_room(pieces, 0, model.config.context_size)
        embeddings = state.missing(pieces)  # (1, L, hidden)
        groups.setdefault(embeddings.shape[1], []).append((index, embeddings))
    answers = [""] * len(prompts)
    for length, rows in groups.items():
        room = min(max_tokens, model.config.context_size - length)
        completions = batch.batch_generate(
            model,
            mx.concatenate([embeddings for _, embeddings in rows]),
            replace(sampling, max_tokens=room),
        )
        for (index, _), completion in zip(rows, completions, strict=True):
            answers[index] = completion.text
    return answers
