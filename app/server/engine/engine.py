"""The inference engine: the model, its prompt cache and its image cache.

Use it on one thread only.
"""

import threading
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, cast

import mlx.core as mx
from mlx.utils import tree_flatten
from PIL import Image

from fastvlm_mlx.app.server.engine.images import Images
from fastvlm_mlx.app.server.engine.request import GenerationRequest, ModelInfo
from fastvlm_mlx.app.server.http.errors import api_error_from
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.conversation.answer import answer_beside
from fastvlm_mlx.conversation.attachment import Attachment
from fastvlm_mlx.conversation.history import Turn
from fastvlm_mlx.conversation.prompt_cache import LIMIT, LRUPromptCache
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.generation.batch_decoder import KV_LIMIT, BatchDecoder
from fastvlm_mlx.generation.constrained import JSONConstraint, llguidance_tokenizer
from fastvlm_mlx.generation.logprobs import check_top_logprobs
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import Chunk
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.fastvlm import FastVLM


class Engine:
    """Answers requests with `model`; use it on the thread that made it.

    `tuned` are models with an adapter by the adapter's name, which is put behind
    `name`: `demo:flags`.
    """

    def __init__(
        self,
        name: str,
        model: "FastVLM",
        limits: Limits,
        tuned: "Mapping[str, FastVLM] | None" = None,
    ):
        self._name = name
        self._model = model
        self._limits = limits
        self._models = {name: model} | {
            f"{name}:{adapter}": each for adapter, each in (tuned or {}).items()
        }
        share = LIMIT // len(self._models)
        self._recent = {
            each: LRUPromptCache(one, share) for each, one in self._models.items()
        }
        # Rows of different adapters are decoded apart, in turn.
        self._decoders = {
            each: BatchDecoder(one, kv_limit=KV_LIMIT // len(self._models))
            for each, one in self._models.items()
        }
        self._images = Images(model, ImageOptions.of(model.config), limits.pixels)
        self._warm_up()
        # Takes seconds with a large vocabulary; done before a request needs JSON.
        threading.Thread(
            target=llguidance_tokenizer, args=(model,), daemon=True
        ).start()

    def models(self) -> tuple[ModelInfo, ...]:
        """The descriptions of all models for clients, the one without adapter first."""
        return tuple(self._describe(name) for name in self._models)

    def _describe(self, name: str) -> ModelInfo:
        model = self._models[name]
        config = model.config
        bits = (config.quantization or {}).get("bits")
        parameters = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
        return ModelInfo(
            name=name,
            context_length=config.context_size,
            family=config.text.model_type if config.text else "qwen2",
            parameters=sum(_count(array, bits) for _, array in parameters),
            bytes=sum(array.nbytes for _, array in parameters),
            quantization=bits,
            vision=config.vision is not None,
            parent="" if model is self._model else self._name,
        )

    def stream(
        self, request: GenerationRequest, cancel: threading.Event
    ) -> Generator[Chunk | None, None, None]:
        """Streams the answer to `request`, beside the others that are not read to end.

        The streams are to be read in turn, one step of each. Before its first chunk
        one yields None after each piece of work, such as an image: the others may go
        on then.

        Raises, before the first chunk:
            APIError: An image cannot be decoded or is too large; it names its field.
            ContextError: The chat does not fit into the context.
            OptionError: A sampling option is out of range.
        """
        started = time.perf_counter()
        name = request.model or self._name
        model, recent = self._models[name], self._recent[name]
        left, turns = self._limits.pixels, []
        for message in request.messages:
            images: list[Attachment] = []
            for at, data in enumerate(message.images):
                assert isinstance(data, bytes)  # URLs were fetched before
                try:
                    image, left = self._images.attach(data, left)
                except ImageError as error:
                    raise api_error_from(error).at(message.field(at)) from None
                image.label = message.label(at)
                images.append(image)
                yield None
            turns.append(Turn(message.role, message.text, tuple(images)))
        response_format = request.response_format
        constraint = None
        if response_format is not None:
            # One for all: they have one tokenizer.
            model.llguidance_tokenizer = llguidance_tokenizer(self._model)
            constraint = JSONConstraint(model, response_format.schema)
        options = dict(request.sampling)
        top_logprobs = options.pop("top_logprobs", None)
        check_top_logprobs(top_logprobs)
        conversation = recent.restore(turns[:-1], system=request.system)
        chunks = answer_beside(
            self._decoders[name],
            model,
            conversation.state,
            turns[-1].text,
            turns[-1].images,
            Sampling(**options),
            context_size=conversation.context_size,
            image_options=conversation.image_options,
            started=started,
            cancel=cancel,
            detailed=request.detailed,
            constraint=constraint,
            top_logprobs=top_logprobs,
        )
        try:
            with closing(chunks):
                yield from chunks
        finally:
            recent.insert(conversation)

    def release_memory(self):
        """Returns MLX's cached buffers to the system."""
        mx.clear_cache()

    def _warm_up(self):
        """Reads the weights and compiles the kernels before the first request."""
        mx.eval(self._model.parameters())
        images = [Image.new("RGB", (8, 8))] if self._model.config.vision else []
        self._model.ask("Hello", images, max_tokens=2)
        self._model.feature_cache.clear()


def _count(array: mx.array, bits: int | None) -> int:
    packed = bits is not None and array.dtype == mx.uint32
    return array.size * 32 // bits if packed and bits else array.size
