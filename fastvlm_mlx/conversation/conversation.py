"""Questions and answers over the same images, each paid for once."""

import contextlib
import time
import weakref
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from fastvlm_mlx.conversation import attachment, shared_prefix, transcript
from fastvlm_mlx.conversation.attachment import Attachment, Pieces, attach
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.conversation.transcript import Transcript
from fastvlm_mlx.errors import CheckpointError, ContextError, FastVLMError
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.generation.stream import Chunk, Timings, stream_generate
from fastvlm_mlx.processing.image_file import Source
from fastvlm_mlx.processing.image_processor import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

ImageSource = Source | Attachment
ImageSources = ImageSource | Sequence[ImageSource]


class Conversation:
    """A chat with `model` about `images`, which join the first question.

    - `system`: the system prompt; None is the model's own, "" is none.
    - `fit`: "pad", "crop" or "stretch"; `resolution`: pixels, a multiple of 64;
      `tiles`: `(rows, columns)`. None is the model's own.

    One conversation serves one user; any number of them may share a model.

    Raises ImageError, OptionError, ContextError if the images alone do not fit, and
    CheckpointError if the model is only an encoder.
    """

    def __init__(
        self,
        model: "FastVLMModel",
        images: ImageSources = (),
        *,
        system: str | None = None,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ):
        config = model.config
        if model.language_model is None:
            raise CheckpointError(
                "this checkpoint is an encoder alone and cannot chat;"
                " give a whole FastVLM checkpoint"
            )
        self.model = model
        self.system = system
        self.view = ImageOptions.of(config, fit, resolution, tiles)
        self.context_size = config.context_size
        self._stream: weakref.ref[Generator[Chunk, None, None]] | None = None
        self._past = History(model, system)
        self._waiting: list[Attachment] = []
        for source in _listed(images):
            self.add(source)
        self._opening = list(self._waiting)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far, oldest first; an answer is there once its stream ended."""
        return tuple(self._past.turns)

    @property
    def context_used(self) -> int:
        """Positions of the context taken, out of `context_size`."""
        return attachment.length(self._past.pieces)

    def add(self, image: ImageSource):
        """Lets an image join the next question; its encoding begins at once.

        Raises ImageError, and ContextError if it does not fit with what is there.
        """
        self._settle()
        attachment = attach(self.model, image, self.view)
        self._check([*self._past.pieces, *self._waiting, attachment])
        attachment.features(self.model)
        self._waiting.append(attachment)

    def reset(self):
        """Forgets all turns. The images given at the start join the next question."""
        self._settle()
        self._past = History(self.model, self.system)
        self._waiting = list(self._opening)

    def ask(
        self,
        prompt: str,
        images: ImageSources = (),
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        constraint: Constraint | None = None,
        cancel: Event | None = None,
    ) -> str:
        """The whole answer to a prompt; arguments and errors as for `stream`."""
        chunks = self.stream(
            prompt,
            images,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
            constraint=constraint,
            cancel=cancel,
        )
        return "".join(chunk.text for chunk in chunks)

    def stream(
        self,
        prompt: str,
        images: ImageSources = (),
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        constraint: Constraint | None = None,
        cancel: Event | None = None,
        detailed: bool = False,
    ) -> Generator[Chunk, None, None]:
        """Streams the answer to `prompt`, about `images` too if any join here.

        Setting `cancel`, closing the iterator, an interrupt and the next prompt all end
        an answer early; what was yielded of it then stays in the conversation. If
        nothing was yielded yet, the prompt is forgotten.

        Args:
            prompt: the question.
            images: those that join here: a PIL image, path, URL or bytes, or a list.
            max_tokens: the length of the answer at most.
            temperature: 0 is greedy; see `Sampling` for this and the next seven.
            constraint: a rule for the form of the answer, as from `constrained.py`.
            cancel: once set, the answer ends early.
            detailed: measures every stage of `Chunk.timings`, which takes longer.
        Raises:
            OptionError: at the call, for an option that cannot be honoured.
            ImageError, ContextError: while iterating, before the model computes
                anything; the conversation is then as it was.
        """
        return self.answer(
            prompt,
            images,
            Sampling(
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
                stop=stop,
                ignore_eos=ignore_eos,
            ),
            constraint=constraint,
            cancel=cancel,
            detailed=detailed,
        )

    def answer(
        self,
        prompt: str,
        images: ImageSources,
        sampling: Sampling,
        *,
        constraint: Constraint | None = None,
        cancel: Event | None = None,
        detailed: bool = False,
    ) -> Generator[Chunk, None, None]:
        """As `stream`, for callers that hold a `Sampling`."""
        started = time.perf_counter()
        self._settle()
        stream = self._answer(
            prompt, _listed(images), sampling, cancel, detailed, constraint, started
        )
        self._stream = weakref.ref(stream)
        return stream

    def _answer(
        self,
        text: str,
        images: Sequence[ImageSource],
        sampling: Sampling,
        cancel: Event | None,
        detailed: bool,
        constraint: Constraint | None,
        started: float,
    ) -> Generator[Chunk, None, None]:
        joining = [attach(self.model, image, self.view) for image in images]
        timings = Timings(
            decode=sum(attachment.seconds[0] for attachment in joining),
            preprocess=sum(attachment.seconds[1] for attachment in joining),
        )
        joining = [*self._waiting, *joining]
        past, memory = self._past, self.model.feature_cache
        pieces = past.with_question(text, joining)
        left = self._check(pieces)

        before = time.perf_counter()
        features = [attachment.features(self.model) for attachment in joining]
        if detailed:
            mx.eval(features)
            timings = replace(timings, encode=time.perf_counter() - before)
        fresh = decode.cache_length(past.cache) == 0
        shown: list[Chunk] = []
        try:
            if fresh:
                shared_prefix.recall(memory, pieces, past.cache)
            chunks = stream_generate(
                self.model,
                past.missing(pieces),
                past.cache,
                replace(sampling, max_tokens=min(sampling.max_tokens, left)),
                visual_tokens=attachment.length(joining),
                timings=timings,
                started=started,
                detailed=detailed,
                cancel=cancel,
                constraint=constraint,
            )
            with contextlib.closing(chunks):
                for chunk in chunks:
                    shown.append(chunk)
                    yield chunk
                    if fresh and len(shown) == 1:
                        shared_prefix.remember(memory, pieces, past.cache)
        finally:
            if shown:
                past.keep(Turn("user", text, tuple(joining)), pieces, shown)
                self._waiting = []
            else:
                decode.trim_cache(past.cache, self.context_used)

    def _check(self, pieces: Pieces, used: int | None = None) -> int:
        """Positions left for an answer to `pieces`; ContextError if there are none.

        `used` of them are not the question's; None means all of the history.
        """
        used = self.context_used if used is None else used
        needed = attachment.length(pieces) - used + 1  # and one token of answer
        free = max(self.context_size - used, 0)
        if needed > free:
            raise ContextError(
                f"the question needs {needed} tokens of context and {free} of"
                f" {self.context_size} are left; start over with /reset, or use fewer"
                " tiles or a lower --resolution"
            )
        return free - needed + 1

    def _settle(self):
        """Ends an answer that is still open, keeping what was shown of it."""
        stream = self._stream() if self._stream else None
        if stream is not None:
            try:
                stream.close()
            except ValueError:  # another thread is inside it
                raise FastVLMError(
                    "this conversation is still answering; wait for the answer, or"
                    " start another conversation"
                ) from None
        self._stream = None

    def save(self, path: str | Path):
        """Writes the conversation to `path` as JSON, whole or not at all.

        Images are saved as their path and a hash, or whole if they have no path.

        Raises FastVLMError if `path` cannot be written.
        """
        self._settle()
        transcript.write(
            path,
            Transcript(
                model=str(self.model.config.source.get("name", "")),
                system=self.system,
                view=self.view,
                turns=self.history,
                opening=tuple(self._opening),
                waiting=tuple(self._waiting),
            ),
        )

    @classmethod
    def load(cls, model: "FastVLMModel", path: str | Path) -> "Conversation":
        """The conversation that `save` wrote, to be continued with `model`.

        With the same model it goes on as if it had never stopped. Its images are
        opened at once and encoded with the next question.

        Raises FastVLMError if `path` is not a saved conversation, ImageError if a
        image is missing or has changed, ContextError if all that does not fit.
        """
        saved = transcript.read(path, model)
        conversation = cls(
            model,
            system=saved.system,
            fit=saved.view.fit,
            resolution=saved.view.resolution,
            tiles=saved.view.tiles,
        )
        conversation._opening = list(saved.opening)
        conversation._waiting = list(saved.waiting)
        for turn in saved.turns:
            conversation._past.replay(turn)
        conversation._check([*conversation._past.pieces, *saved.waiting], used=0)
        return conversation


def _listed(images: ImageSources) -> Sequence[ImageSource]:
    if isinstance(images, list | tuple):
        return cast(Sequence[ImageSource], images)
    return [cast(ImageSource, images)]
