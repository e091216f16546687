"""`load`, and `FastVLM`: the network with images, prompts and conversations."""

from collections.abc import Generator, Sequence
from pathlib import Path
from threading import Event

import mlx.core as mx

from fastvlm_mlx.adapters.apply import attach
from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.conversation.attachment import ImageSources, stacked_pixels
from fastvlm_mlx.conversation.choose import Choice
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.cpu import kernels, openblas
from fastvlm_mlx.device import DTYPES
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.generation.sampling import Constraint
from fastvlm_mlx.generation.stream import Chunk
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import assign, check_tensors, read
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.model_folder import converted
from fastvlm_mlx.processing.image_file import Source
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.weight_files import load_all_tensors, reading


class FastVLM(FastVLMModel):
    """The network with images, prompts and conversations; what `load` returns."""

    def encode_image(
        self,
        images: Source | Sequence[Source],
        *,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> mx.array:
        """Visual embeddings of images, for any thread: (N, tokens, hidden).

        Args:
            images: a PIL image, path or URL, or a list of them.
            fit, resolution, tiles: as for `stream`. With tiles, N counts the overview
                and the tiles of every image in order.
        Raises:
            ImageError: an image cannot be opened.
            OptionError: an option cannot be honoured.
        """
        options = ImageOptions.of(self.config, fit, resolution, tiles)
        pixels = stacked_pixels(images, options, self.config.grid_pinpoints)
        mx.async_eval(embeddings := self.encode_pixels(pixels))
        return embeddings

    def conversation(
        self,
        images: ImageSources = (),
        *,
        system: str | None = None,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> Conversation:
        """A conversation about `images`; arguments as for `Conversation`."""
        return Conversation(
            self, images, system=system, fit=fit, resolution=resolution, tiles=tiles
        )

    def stream(
        self,
        prompt: str,
        images: ImageSources = (),
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
        constraint: Constraint | None = None,
        cancel: Event | None = None,
        detailed: bool = False,
        top_logprobs: int | None = None,
    ) -> Generator[Chunk, None, None]:
        """Streams the answer to one prompt about `images`, a chunk for each token.

        Args:
            prompt: the question.
            images: a PIL image, path, URL or bytes, or a list of them.
            system: the system prompt; None is the model's own, "" is none.
            fit, resolution, tiles: how images are shown, see `ImageOptions`; None is
                the model's own.
            max_tokens: the length of the answer at most.
            temperature: 0 is greedy; see `Sampling` for this and the next seven.
            constraint, cancel: a rule for the answer's form; once set, ends it early.
            detailed: measures every stage of `Chunk.timings`, which takes longer.
            top_logprobs: 0 to 20 fills `Chunk.logprobs`, each with so many others.
        Raises:
            OptionError: at the call, for an option that cannot be honoured.
            ImageError: while iterating, if an image cannot be opened.
            ContextError: while iterating, if the prompt does not fit.
        """
        chat = self.conversation(
            system=system, fit=fit, resolution=resolution, tiles=tiles
        )
        return chat.stream(
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
            detailed=detailed,
            top_logprobs=top_logprobs,
        )

    def ask(
        self,
        prompt: str,
        images: ImageSources = (),
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
        constraint: Constraint | None = None,
        cancel: Event | None = None,
    ) -> str:
        """The whole answer to one prompt; arguments and errors as for `stream`."""
        chunks = self.stream(
            prompt,
            images,
            system=system,
            fit=fit,
            resolution=resolution,
            tiles=tiles,
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

    def choose(
        self,
        prompt: str,
        images: ImageSources,
        choices: Sequence[str],
        *,
        system: str | None = None,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
        normalize: bool = False,
    ) -> Choice:
        """The likeliest of several given answers, and the probability of each.

        Every choice is scored in whole, with the token that ends an answer after it,
        so "cat" is no part of "caterpillar". A choice of more tokens is less likely by
        its length alone, as it would be as an answer; `normalize` takes that away.

        Args:
            prompt: the question; it should say what may be answered.
            images: those it is about, as for `stream`; () is none.
            choices: 2 to 1000 distinct texts, as the model would write them; blanks
                around them do not count.
            system, fit, resolution, tiles: as for `stream`.
            normalize: compare the mean log-probability of a choice's tokens, not their
                sum; the probabilities then are scores, and long choices gain.
        Raises:
            OptionError: a choice is empty or there twice, or there are too few or many.
            ImageError: an image cannot be opened.
            ContextError: the prompt does not fit with the longest choice.
        """
        chat = self.conversation(
            system=system, fit=fit, resolution=resolution, tiles=tiles
        )
        return chat.choose(prompt, images, choices, normalize=normalize)


def load(
    path_or_hf_repo: str | Path,
    *,
    dtype: str | None = None,
    adapter: str | Path | None = None,
    on_progress: Progress | None = None,
) -> FastVLM:
    """Loads a model, converting it once into the cache if it is not ours yet.

    Args:
        path_or_hf_repo: `demo`, `0.5b`, `1.5b`, `7b`, a hub id, a folder, a `.zip` or a
            weight file, in any known layout.
        dtype: float32, float16 or bfloat16; the device's own by default.
        adapter: the folder of an adapter, in mlx-lm's or PEFT's format.
        on_progress: called with (bytes done, bytes in all) while converting.
    Raises:
        AdapterError: the adapter is missing, damaged or of another model.
        CheckpointError: the checkpoint is unknown, damaged or incomplete.
        DownloadError, OptionError: it could not be fetched; an unknown `dtype`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r:.200}: unknown; use {', '.join(DTYPES)}")
    tuning = None if adapter is None else read_adapter(adapter)
    openblas.bind()
    folder = converted(path_or_hf_repo, on_progress=on_progress)
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    tensors = load_all_tensors(folder)
    kernels.prepare(sum(tensor.size for tensor in tensors.values()))
    model = FastVLM(config)
    check_tensors(model, tensors)
    if config.text is not None:
        model.tokenizer = Tokenizer(folder, config.text.vocab_size)
    # A file that was cut after its check shows here; and any thread may use the model:
    # since MLX 0.31.2 only the one that described an array can start computing it.
    with reading(folder):
        assign(model, tensors, DTYPES[dtype] if dtype else None, folder=folder)
        read(model, tensors)
    model.eval()
    if tuning is not None:
        attach(model, tuning)
    return model
