"""From a name to a loaded model; anything unconverted is converted once, and kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.conversation.conversation import Conversation, stream_once
from fastvlm_mlx.device import DTYPES, device_dtype
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.generation.stream import Chunk
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import assign, check_tensors
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.model_folder import Progress, converted
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_processor import ImageOptions, preprocess
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.weight_files import Tensors, load_tensors, weight_files


class FastVLM(FastVLMModel):
    """The network, and what a person does with it."""

    def encode_image(
        self,
        images: Any,
        *,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> mx.array:
        """Visual embeddings of images: (N, tokens, hidden).

        Args:
            images: a PIL image, path or URL, or a list of them.
            fit: `pad`, `crop` or `stretch`; the model's own by default.
            resolution: pixels a side, a multiple of 64; the model's own by default.
            tiles: (rows, columns) to cut each image into; N then counts the
                overview and the tiles of every image in order.
        Raises:
            ImageError: an image cannot be opened.
            OptionError: an option cannot be honoured.
        """
        view = ImageOptions(
            fit or self.config.fit, resolution or self.config.image_size, tiles
        )
        sources = images if isinstance(images, list | tuple) else [images]
        if not sources:
            raise OptionError("images: an empty list; give at least one image")
        opened = [open_image(source) for source in sources]
        pixels = [
            preprocess(image, view, self.config.grid_pinpoints) for image in opened
        ]
        return self.encode_pixels(np.concatenate(pixels))

    def conversation(self, images: Any = (), **options: Any) -> Conversation:
        """A conversation about `images`; see `conversation.Conversation`."""
        return Conversation(self, images, **options)

    def stream(self, images: Any, prompt: str, **options: Any) -> Iterator[Chunk]:
        """Answers one question about `images`, chunk by chunk as tokens are made."""
        return stream_once(self, images, prompt, **options)

    def ask(self, images: Any, prompt: str, **options: Any) -> str:
        """Answers one question about `images`: the whole text."""
        return "".join(chunk.text for chunk in self.stream(images, prompt, **options))


def load(
    name: str | Path = "demo",
    *,
    dtype: str | None = None,
    on_progress: Progress | None = None,
) -> FastVLM:
    """Loads a model, converting it once into the cache if it is not ours yet.

    Reading the weights has begun when it returns, the encoder's first; the model can
    be used at once, from any thread.

    Args:
        name: `demo`, `0.5b`, `1.5b`, `7b`, a hub id, or a path to a folder, `.zip` or
            weight file in any known layout.
        dtype: float32, float16 or bfloat16; the device's own by default
                (see `device.py`).
        on_progress: called with (bytes done, bytes in all) while converting.
    Raises:
        CheckpointError: the checkpoint is unknown, damaged or incomplete.
        DownloadError: it could not be fetched.
        OptionError: an unknown `dtype`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r}: unknown; use {', '.join(DTYPES)}")
    folder = converted(name, on_progress=on_progress)
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    tensors: Tensors = {}
    for file in weight_files(folder):
        tensors |= load_tensors(file)
    model = FastVLM(config)
    check_tensors(model, tensors)
    assign(model, tensors, DTYPES[dtype] if dtype else device_dtype())
    if config.text is not None:
        model.tokenizer = Tokenizer(folder)
    model.eval()
    # Since MLX 0.31.2 only the thread that described an array can start computing it.
    parameters = model.parameters()
    for part in ("vision_tower", "projector", "language_model"):
        mx.async_eval(parameters.get(part, []))
    return model
