"""Options of a Core AI export, and checks of their values and combinations."""

from dataclasses import dataclass

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.model.config import ModelConfig

PRECISIONS = ("float16", "float32")
COMPRESSIONS = ("int8", "int8-block", "int4-block")

# 48 x 48 tokens, as for Core ML.
MAX_RESOLUTION = 3072

# A prompt with an image and a short answer at least; Qwen2's own limit at most.
MIN_CONTEXT, MAX_CONTEXT = 64, 131072


@dataclass(frozen=True)
class CoreAIOptions:
    """Options of one export; the defaults are what Apple's runner reads.

    Args:
        precision: `float16` or `float32`, of weights, arithmetic and output. Apple's
            runner takes float16 embeddings only.
        resolutions: pixels a side, multiples of 64; the model's own by default. The
            first, or the model's own if it is among them, is the function `main`, each
            other one `image_R`.
        projector: the output is `image_embeddings` (language-model embeddings), not
            the encoder's `image_features`.
        compression: of the weights of 1x1 convolutions: `int8` (a scale per output
            channel), `int8-block` or `int4-block` (per 32 inputs), or None.
        norm_prescale: LayerNorm's input is divided by this power of two, in float16.
        context: tokens of the language model's caches.
        q_bits: 4 or 8, of the language model's linear layers, in blocks of 32 inputs.
    Raises:
        OptionError: an impossible value or combination.
    """

    precision: str = "float16"
    resolutions: tuple[int, ...] = ()
    projector: bool = True
    compression: str | None = None
    norm_prescale: int = 16
    context: int = 4096
    q_bits: int | None = None

    def __post_init__(self):
        for option, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--compress", self.compression, (None, *COMPRESSIONS)),
        ):
            if value not in known:
                names = ", ".join(filter(None, known))
                raise OptionError(f"{option} {value}: unknown; use {names}")
        if self.compression and self.precision == "float32":
            raise OptionError(
                f"--compress {self.compression}: is for float16;"
                " leave out --precision float32"
            )
        if self.norm_prescale < 1 or self.norm_prescale & (self.norm_prescale - 1):
            raise OptionError(
                f"--norm-prescale {self.norm_prescale}: use a power of two, or 1"
            )
        if self.q_bits not in (None, 4, 8):
            raise OptionError(f"--q-bits {self.q_bits}: use 4 or 8")
        if self.q_bits and self.precision == "float32":
            raise OptionError(
                f"--q-bits {self.q_bits}: is for float16; leave out --precision float32"
            )
        if not MIN_CONTEXT <= self.context <= MAX_CONTEXT:
            raise OptionError(
                f"--context {self.context}: use {MIN_CONTEXT} to {MAX_CONTEXT} tokens"
            )
        if len(set(self.resolutions)) != len(self.resolutions):
            sizes = ",".join(map(str, self.resolutions))
            raise OptionError(f"--resolution {sizes}: name each size once")

    def sizes(self, config: ModelConfig) -> tuple[int, ...]:
        """The resolutions to export, that of the function `main` first.

        Raises:
            OptionError: a size that the encoder's stride does not divide.
        """
        assert config.vision is not None  # the caller checked
        stride, own = config.vision.stride, config.image_size
        chosen = self.resolutions or (own,)
        for size in chosen:
            if size < stride or size % stride or size > MAX_RESOLUTION:
                raise OptionError(
                    f"--resolution {size}: use a multiple of {stride}"
                    f" up to {MAX_RESOLUTION}"
                )
        return tuple(sorted(chosen, key=lambda size: (size != own, size)))


def function_name(size: int, sizes: tuple[int, ...]) -> str:
    """The function of one resolution; Apple's runner calls `main`."""
    return "main" if size == sizes[0] else f"image_{size}"
