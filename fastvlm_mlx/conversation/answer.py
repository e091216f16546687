"""Streams the answer to one question of a chat and adds both to its history: alone, or
beside the answers to others."""

import contextlib
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.conversation.attachment import ImageSource, Pieces, attach, length
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.conversation.shared_prefix import restore_prefix, save_prefix
from fastvlm_mlx.errors import ContextError, FastVLMError
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.batch_decoder import BatchDecoder, Row
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.generation.stream import Chunk, Timings, stream_beside, without_pauses
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


def stream_answer(
    model: "FastVLMModel",
    state: History,
    question: str,
    images: Sequence[ImageSource],
    sampling: Sampling,
    *,
    context_size: int,
    image_options: ImageOptions,
    started: float,
    detailed: bool,
    cancel: Event | None,
    constraint: Constraint | None,
    top_logprobs: int | None = None,
) -> Generator[Chunk, None, None]:
    """Streams the answer to `question`, which `images` join; see `stream_generate`.

    If anything was yielded, the question and what was yielded are in `state` when the
    stream ends; otherwise `state` is as it was.

    Raises:
        ImageError: while iterating, if an image cannot be opened.
        ContextError: while iterating, if the question does not fit.
    """
    chunks = answer_beside(
        BatchDecoder(model),
        model,
        state,
        question,
        images,
        sampling,
        context_size=context_size,
        image_options=image_options,
        started=started,
        detailed=detailed,
        cancel=cancel,
        constraint=constraint,
        top_logprobs=top_logprobs,
    )
    yield from without_pauses(chunks)


def answer_beside(
    decoder: BatchDecoder,
    model: "FastVLMModel",
    state: History,
    question: str,
    images: Sequence[ImageSource],
    sampling: Sampling,
    *,
    context_size: int,
    image_options: ImageOptions,
    started: float,
    detailed: bool = False,
    cancel: Event | None = None,
    constraint: Constraint | None = None,
    top_logprobs: int | None = None,
) -> Generator[Chunk | None, None, None]:
    """As `stream_answer`, for an answer that `decoder` decodes beside others.

    Before its first chunk it yields None after each image and each part of a long
    prompt, and while the others leave no memory for it: they may go on then.
    """
    joining = [attach(model, image, image_options) for image in images]
    timings = Timings(
        decode=sum(image.decode_seconds for image in joining),
        preprocess=sum(image.preprocess_seconds for image in joining),
    )
    shown_images = [*state.waiting, *joining]
    prefixes, used = model.feature_cache, length(state.pieces)
    pieces = state.with_question(question, shown_images)
    left = answer_room(pieces, used, context_size)
    sampling = replace(sampling, max_tokens=min(sampling.max_tokens, left))
    while decoder.is_full(length(pieces), sampling.max_tokens):
        yield None

    is_first = decode.cache_length(state.cache) == 0
    shown: list[Chunk] = []
    try:
        if is_first:
            restore_prefix(prefixes, pieces, state.cache)
        before = time.perf_counter()
        features: list[mx.array] = []
        for image in (*state.images_to_read(), *shown_images):
            features.append(image.features(model))
            yield None
        if detailed:
            mx.eval(features)
            timings = replace(timings, encode=time.perf_counter() - before)
        chunks = stream_beside(
            decoder,
            Row(model, state.cache, sampling, constraint, top_logprobs),
            state.missing(pieces),
            visual_tokens=length(shown_images),
            timings=timings,
            started=started,
            detailed=detailed,
            cancel=cancel,
        )
        with contextlib.closing(chunks):
            for chunk in chunks:
                if chunk is None:
                    yield None
                    continue
                shown.append(chunk)
                yield chunk
                if is_first and len(shown) == 1:
                    save_prefix(prefixes, pieces, state.cache)
    finally:
        if shown:
            state.keep(Turn("user", question, tuple(shown_images)), pieces, shown)
        else:
            decode.trim_cache(state.cache, used)


def answer_room(pieces: Pieces, used: int, context_size: int) -> int:
    """Positions left for an answer to `pieces`, `used` of which are in the context.

    Raises:
        ContextError: there is none.
    """
    needed = length(pieces) - used + 1  # and one token of answer
    free = max(context_size - used, 0)
    if needed > free:
        raise ContextError(
            f"the question needs {needed} tokens of context and {free} of"
            f" {context_size} are left; shorten the text or what came before it, or"
            " give fewer or smaller images"
        )
    return free - needed + 1


def end_answer(stream: Generator[Chunk, None, None]):
    """Ends an answer early; what it yielded stays in the history.

    Raises:
        FastVLMError: another thread is computing its next chunk.
    """
    try:
        stream.close()
    except ValueError:  # another thread is inside it
        raise FastVLMError(
            "this conversation is still answering; wait for the answer, or start"
            " another conversation"
        ) from None
