"""Answers to several prompts with images at once (`batch_generate`)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastvlm_mlx.conversation.answer import answer_room
from fastvlm_mlx.conversation.attachment import (
    Attachment,
    ImageSources,
    as_list,
    attach,
)
from fastvlm_mlx.conversation.history import History
from fastvlm_mlx.errors import ContextError, FastVLMError, OptionError
from fastvlm_mlx.generation.batch import Completion, Prompt, complete
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

    All prompts are answered together, whatever their lengths.

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
    opened: list[list[Attachment]] = [[] for _ in prompts]
    if images:
        opened = [[attach(model, one, options) for one in as_list(i)] for i in images]
    asked = list(zip(prompts, opened, strict=True))
    size = max(len(asked), 1)
    texts: list[str] = []
    for each in completions(model, asked, sampling, system=system, size=size):
        if isinstance(each, FastVLMError):
            raise each
        texts.append(each.text)
    return texts


def completions(
    model: "FastVLMModel",
    asked: Iterable[tuple[str, Sequence[Attachment]] | FastVLMError],
    sampling: Sampling,
    *,
    size: int,
    system: str | None = None,
) -> Iterator[Completion | FastVLMError]:
    """The answers to several prompts, in order, or why one has none.

    Args:
        model: the model.
        asked: the questions, each with its images, opened by `attach`; read as they are
            needed. An error is given back in its place.
        sampling: how tokens are chosen.
        size: how many are answered together.
        system: the system prompt; None is the model's own.
    """
    state = History(model, system)  # stays empty: every prompt is a first one

    def prompt(
        each: tuple[str, Sequence[Attachment]] | FastVLMError,
    ) -> Prompt | FastVLMError:
        if isinstance(each, FastVLMError):
            return each
        pieces = state.with_question(*each)
        try:
            room = answer_room(pieces, 0, model.config.context_size)
        except ContextError as fault:
            return fault
        room = min(sampling.max_tokens, room)
        return Prompt(state.missing(pieces), replace(sampling, max_tokens=room))

    return complete(model, map(prompt, asked), size=size)
