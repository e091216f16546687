"""Apple's FastVLM on Apple silicon, in MLX.

    from fastvlm_mlx import load

    model = load("demo")
    print(model.ask("What is in the image?", "image.png"))

Names are resolved on first use, so `import fastvlm_mlx` costs next to nothing.
"""

from fastvlm_mlx._version import __version__
from fastvlm_mlx.lazy_names import resolver

# As in `typing`, whose import would be most of this one's time: until the command line
# has this package, Ctrl-C is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastvlm_mlx.conversation.attachment import Attachment
    from fastvlm_mlx.conversation.batch import batch_generate
    from fastvlm_mlx.conversation.choose import Choice
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.conversation.history import Turn
    from fastvlm_mlx.errors import (
        AdapterError,
        CheckpointError,
        ContextError,
        DataError,
        DownloadError,
        FastVLMError,
        ImageError,
        OptionError,
        ServerError,
        TrainingError,
    )
    from fastvlm_mlx.fastvlm import FastVLM, load
    from fastvlm_mlx.functions import generate, stream_generate
    from fastvlm_mlx.generation.logprobs import TokenLogprob
    from fastvlm_mlx.generation.sampling import Sampling
    from fastvlm_mlx.generation.stream import Chunk, Timings
    from fastvlm_mlx.model.vlm import FastVLMModel
    from fastvlm_mlx.processing.image_options import ImageOptions

_HOMES = {
    "AdapterError": "errors",
    "Attachment": "conversation.attachment",
    "CheckpointError": "errors",
    "Choice": "conversation.choose",
    "Chunk": "generation.stream",
    "ContextError": "errors",
    "Conversation": "conversation.conversation",
    "DataError": "errors",
    "DownloadError": "errors",
    "FastVLM": "fastvlm",
    "FastVLMError": "errors",
    "FastVLMModel": "model.vlm",
    "ImageError": "errors",
    "ImageOptions": "processing.image_options",
    "OptionError": "errors",
    "Sampling": "generation.sampling",
    "ServerError": "errors",
    "Timings": "generation.stream",
    "TokenLogprob": "generation.logprobs",
    "TrainingError": "errors",
    "Turn": "conversation.history",
    "batch_generate": "conversation.batch",
    "generate": "functions",
    "load": "fastvlm",
    "stream_generate": "functions",
}

__all__ = [
    "AdapterError",
    "Attachment",
    "CheckpointError",
    "Choice",
    "Chunk",
    "ContextError",
    "Conversation",
    "DataError",
    "DownloadError",
    "FastVLM",
    "FastVLMError",
    "FastVLMModel",
    "ImageError",
    "ImageOptions",
    "OptionError",
    "Sampling",
    "ServerError",
    "Timings",
    "TokenLogprob",
    "TrainingError",
    "Turn",
    "__version__",
    "batch_generate",
    "generate",
    "load",
    "stream_generate",
]

__getattr__ = resolver(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
