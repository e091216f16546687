"""A multi-turn chat about images.

The KV cache and the image features are kept between turns.
"""

import time
import weakref
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Event

from fastvlm_mlx.conversation import transcript
from fastvlm_mlx.conversation.answer import answer_room, end_answer, stream_answer
from fastvlm_mlx.conversation.attachment import (
    ImageSource,
    ImageSources,
    as_list,
    attach,
    length,
)
from fastvlm_mlx.conversation.choose import Choice, choose_answer
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.conversation.transcript import Transcript
from fastvlm_mlx.generation.logprobs import check_top_logprobs
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.generation.stream import Chunk
from fastvlm_mlx.model.vlm import FastVLMModel, encoder_alone
from fastvlm_mlx.processing.image_options import ImageOptions


class Conversation:
    """A chat with `model` about `images`, which join the first question.

    - `system`: the system prompt; None is the model's own, "" is none.
    - `fit`: "pad", "crop" or "stretch"; `resolution`: pixels, a multiple of 64;
      `tiles`: `(rows, columns)`. None is the model's own.

    `image_options` are the last three; `state` holds the turns and their KV cache.
    One conversation serves one user; any number of them may share a model.

    Raises:
        ImageError: an image cannot be opened.
        OptionError: an option cannot be honoured.
        ContextError: the images alone do not fit.
        CheckpointError: the model is only an encoder.
    """

    def __init__(
        self,
        model: FastVLMModel,
        images: ImageSources = (),
        *,
        system: str | None = None,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ):
        if model.language_model is None:
            raise encoder_alone()
        self.model = model
        self.system = system
        self.image_options = ImageOptions.of(model.config, fit, resolution, tiles)
        self.context_size = model.config.context_size
        self._stream: weakref.ref[Generator[Chunk, None, None]] | None = None
        self.state = History(model, system)
        for source in as_list(images):
            self.add(source)
        self._opening = list(self.state.waiting)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns so far, oldest first; an answer is there once its stream ended."""
        return tuple(self.state.turns)

    @property
    def context_used(self) -> int:
        """Positions of the context taken, out of `context_size`."""
        return length(self.state.pieces)

    def add(self, image: ImageSource):
        """Lets an image join the next question; its encoding begins at once.

        Raises:
            ImageError: it cannot be opened.
            ContextError: it does not fit with what is there.
        """
        self._settle()
        added = attach(self.model, image, self.image_options)
        pieces = [*self.state.pieces, *self.state.waiting, added]
        answer_room(pieces, self.context_used, self.context_size)
        added.features(self.model)
        self.state.waiting.append(added)

    def reset(self):
        """Forgets all turns. The images given at the start join the next question."""
        self._settle()
        self.state = History(self.model, self.system)
        self.state.waiting = list(self._opening)

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
        top_logprobs: int | None = None,
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
            top_logprobs: 0 to 20 fills `Chunk.logprobs`, each with so many others.
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
            top_logprobs=top_logprobs,
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
        top_logprobs: int | None = None,
    ) -> Generator[Chunk, None, None]:
        """As `stream`, for callers that hold a `Sampling`."""
        started = time.perf_counter()
        check_top_logprobs(top_logprobs)
        self._settle()
        stream = stream_answer(
            self.model,
            self.state,
            prompt,
            as_list(images),
            sampling,
            context_size=self.context_size,
            image_options=self.image_options,
            started=started,
            constraint=constraint,
            cancel=cancel,
            detailed=detailed,
            top_logprobs=top_logprobs,
        )
        self._stream = weakref.ref(stream)
        return stream

    def choose(
        self,
        prompt: str,
        images: ImageSources,
        choices: Sequence[str],
        *,
        normalize: bool = False,
    ) -> Choice:
        """The likeliest of `choices` as the answer, which then is this turn's answer.

        Arguments and errors as for `FastVLM.choose`; after an error the conversation is
        as it was.
        """
        self._settle()
        return choose_answer(
            self.model,
            self.state,
            prompt,
            as_list(images),
            choices,
            context_size=self.context_size,
            image_options=self.image_options,
            normalize=normalize,
        )

    def _settle(self):
        """Ends an answer that is still open, keeping what was shown of it."""
        if self._stream and (stream := self._stream()) is not None:
            end_answer(stream)
        self._stream = None

    def save(self, path: str | Path):
        """Writes the conversation to `path` as JSON, whole or not at all.

        Images are saved as their path and a hash, or whole if they have no path.

        Raises:
            FastVLMError: `path` cannot be written.
        """
        self._settle()
        whole = Transcript(
            model=str(self.model.config.source.get("name", "")),
            system=self.system,
            image_options=self.image_options,
            turns=self.history,
            opening=tuple(self._opening),
            waiting=tuple(self.state.waiting),
        )
        transcript.write(path, whole)

    @classmethod
    def load(cls, model: FastVLMModel, path: str | Path) -> "Conversation":
        """The conversation that `save` wrote, to be continued with `model`.

        With the same model it goes on as if it had never stopped. Its images are
        opened at once and encoded with the next question.

        Raises:
            FastVLMError: `path` is not a saved conversation.
            ImageError: an image is missing or has changed.
            ContextError: all that does not fit.
        """
        saved = transcript.read(path, model)
        options = asdict(saved.image_options)
        conversation = cls(model, system=saved.system, **options)
        conversation._opening = list(saved.opening)
        conversation.state.waiting = list(saved.waiting)
        for turn in saved.turns:
            conversation.state.replay(turn)
        pieces = [*conversation.state.pieces, *saved.waiting]
        answer_room(pieces, 0, conversation.context_size)
        return conversation
